from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from libs.serving.call import never_cancelled
from libs.serving.errors import Cancelled, DeadlineExceeded, Internal, ResourceExhausted
from services.torch_worker.serving.turn import Busy, Turn


class Recorder:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.drops: list[str] = []
        self.now = 0.0
        self.busy = False
        self.handed_over: list[tuple[int, float | None]] = []

    def run(self, items: Sequence[int], waited_s: float) -> list[int | Exception]:
        if self.busy:
            raise Busy
        self.batches.append(list(items))
        return [Internal("odd") if item % 2 else item * 10 for item in items]

    async def elsewhere(self, item: int, deadline: float | None, cancelled: object) -> int:
        self.handed_over.append((item, deadline))
        await asyncio.sleep(0)
        if item % 2:
            raise Internal("odd")
        return item * 100

    def turn(self, max_rows: int = 4, max_waiting_rows: int = 16) -> Turn[int, int]:
        return Turn(
            self.run,
            self.elsewhere,
            max_rows=max_rows,
            max_waiting_rows=max_waiting_rows,
            clock=lambda: self.now,
            dropped=lambda reason, items: self.drops.append(reason),
        )


def submit(
    turn: Turn[int, int], item: int, key: str = "k", rows: int = 1, deadline: float | None = None
) -> asyncio.Future[int]:
    return turn.submit(item, rows, key, deadline, never_cancelled, 0.0)


async def test_those_that_come_together_share_a_call_and_fail_alone() -> None:
    recorder = Recorder()
    turn = recorder.turn()
    futures = [submit(turn, 0), submit(turn, 1)]
    await asyncio.sleep(0)  # a turn later
    futures.append(submit(turn, 2))
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [answers[0], answers[2]] == [0, 20]
    assert isinstance(answers[1], Internal)
    assert recorder.batches == [[0, 1, 2]]
    assert turn.rows == 0


async def test_calls_hold_one_key_and_no_more_rows_than_fit() -> None:
    recorder = Recorder()
    turn = recorder.turn(max_rows=4)
    futures = [
        submit(turn, 0, rows=3),
        submit(turn, 2, "other"),
        submit(turn, 4, rows=2),
        submit(turn, 6),
        submit(turn, 8, rows=4),
    ]
    assert await asyncio.gather(*futures) == [0, 20, 40, 60, 80]
    assert recorder.batches == [[0, 6], [2], [4], [8]]
    assert turn.rows == 0


async def test_what_nobody_waits_for_is_not_run() -> None:
    recorder = Recorder()
    turn = recorder.turn()
    late = submit(turn, 0, deadline=1.0)
    gone = turn.submit(2, 1, "k", None, lambda: True, 0.0)
    withdrawn = submit(turn, 4)
    good = submit(turn, 6, deadline=9.0)
    withdrawn.cancel()
    recorder.now = 2.0
    assert await good == 60
    with pytest.raises(DeadlineExceeded):
        await late
    with pytest.raises(Cancelled):
        await gone
    assert recorder.batches == [[6]]
    assert sorted(recorder.drops) == ["cancelled", "expired"]
    assert turn.rows == 0


async def test_too_many_rows_are_refused() -> None:
    recorder = Recorder()
    turn = recorder.turn(max_waiting_rows=5)
    kept = [submit(turn, 0, rows=3), submit(turn, 2, rows=2)]
    with pytest.raises(ResourceExhausted, match="5 of 5 rows wait"):
        submit(turn, 4)
    assert await asyncio.gather(*kept) == [0, 20]
    assert recorder.drops == ["rejected"]


async def test_a_run_that_raises_fails_its_items_only() -> None:
    calls = 0

    def run(items: Sequence[int], waited_s: float) -> list[int | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Internal("broken")
        return list(items)

    turn: Turn[int, int] = Turn(
        run,
        Recorder().elsewhere,
        max_rows=4,
        max_waiting_rows=8,
        clock=lambda: 0.0,
        dropped=lambda reason, items: None,
    )
    with pytest.raises(Internal, match="broken"):
        await submit(turn, 1)
    assert await submit(turn, 2) == 2


async def test_what_cannot_run_here_now_is_answered_elsewhere() -> None:
    recorder = Recorder()
    recorder.busy = True
    turn = recorder.turn()
    futures = [submit(turn, 0), submit(turn, 1), submit(turn, 2, deadline=9.0)]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [answers[0], answers[2]] == [0, 200]
    assert isinstance(answers[1], Internal)
    assert recorder.handed_over == [(0, None), (1, None), (2, 9.0)]
    assert recorder.batches == [] and turn.rows == 0


async def test_a_caller_that_leaves_takes_back_what_was_handed_over() -> None:
    left = asyncio.Event()

    async def elsewhere(item: int, deadline: float | None, cancelled: object) -> int:
        try:
            return await asyncio.sleep(60, 1)
        finally:
            left.set()

    recorder = Recorder()
    recorder.busy = True
    recorder.elsewhere = elsewhere  # type: ignore[method-assign]
    future = submit(recorder.turn(), 0)
    for _ in range(20):
        await asyncio.sleep(0)
    future.cancel()
    await asyncio.wait_for(left.wait(), 10)
