"""What the metrics add to a call, in microseconds of CPU: `python -m services.tf_serving.monitoring_bench`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from libs.serving.call import Call
from services.tf_serving.execution.inference import Inference, Plan
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.monitoring.requests import RequestStats

CALLS = 50_000
ROUNDS = 15


class Nothing:
    """A scheduler that has run everything already."""

    async def run(self, *arguments: Any, **more: Any) -> list[Any]:
        return []


async def best(call: Callable[[], Awaitable[object]]) -> float:
    """Microseconds of one call, in the best of several rounds."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(CALLS):
            await call()
        rounds.append((time.thread_time() - start) / CALLS * 1e6)
    return min(rounds)


async def main() -> None:
    """Print the costs of the two places that count."""
    stats = RequestStats()
    call = Call("Predict", {}, subject="model")
    plan = Plan(cast(Any, None), (), cast(Any, None), [], None, None)
    scheduler = cast(Scheduler, Nothing())

    async def handler(call: Call, body: bytes) -> bytes:
        return body

    watched = stats.watched("Predict", handler)
    plain, timed = Inference(scheduler), Inference(scheduler, observer=stats)
    request = await best(lambda: watched(call, b"")) - await best(lambda: handler(call, b""))
    runtime = await best(lambda: timed.run(plan, call)) - await best(lambda: plain.run(plan, call))
    print(f"request {request:.2f} us, runtime {runtime:.2f} us, together {request + runtime:.2f} us")


if __name__ == "__main__":
    asyncio.run(main())
