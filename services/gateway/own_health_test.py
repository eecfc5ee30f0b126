from __future__ import annotations

from collections.abc import Mapping

import pytest

from libs.balancing.endpoint import Endpoint
from services.gateway.own_health import Health
from services.gateway.table import Pool, Table, Task

TABLE = Table(
    {69: Task(69, 100, "p"), 70: Task(70, 100, "q")}, {n: Pool(n, {Endpoint("h", 1): 1}) for n in "pq"}
)


@pytest.mark.parametrize(
    ("service", "answer"),
    [
        ("69", True),
        ("textcnn-69", True),
        ("a-070", False),
        ("70", False),
        ("71", None),
        ("x", None),
        ("9" * 40, None),
    ],
)
async def test_a_task_is_well_while_its_pool_has_an_instance(service: str, answer: bool | None) -> None:
    async def membership() -> Mapping[str, int]:
        return {"p": 1, "q": 0}

    assert await Health(lambda: TABLE, membership).of(service) is answer


async def test_many_that_watch_ask_envoy_seldom_and_no_answer_is_not_well() -> None:
    now, asked, fails = 0.0, 0, False

    async def membership() -> Mapping[str, int]:
        nonlocal asked
        asked += 1
        if fails:
            raise OSError("away")
        return {"p": 1}

    health = Health(lambda: TABLE, membership, lambda: now)
    assert [await health.of("69") for _ in range(50)] == [True] * 50
    assert asked == 1
    now, fails = 1.0, True
    assert await health.of("69") is False
