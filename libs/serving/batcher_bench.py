"""Cost of the batcher by itself: `python -m libs.serving.batcher_bench`.

Prints, for closed-loop callers on one event loop, requests per second, CPU per request, latency and items a
batch. The model does nothing, or sleeps (releasing Python's lock, as an accelerator or a native kernel does),
or computes in Python (holding it). The first line is a call of the model through `run_in_executor`, the stock
way to leave the loop.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from libs.serving.batcher import Batcher, BatchPolicy

Submit = Callable[[int], Awaitable[int]]


def _model(work: str, cost_s: float) -> Callable[[Sequence[int]], Sequence[int]]:
    def nothing(items: Sequence[int]) -> Sequence[int]:
        return items

    def sleep(items: Sequence[int]) -> Sequence[int]:
        time.sleep(cost_s)
        return items

    def compute(items: Sequence[int]) -> Sequence[int]:
        end = time.perf_counter() + cost_s
        while time.perf_counter() < end:
            pass
        return items

    return {"nothing": nothing, "sleep": sleep, "compute": compute}[work]


async def _measure(
    label: str, submit: Submit, callers: int, seconds: float, batches: Callable[[], int]
) -> None:
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (begin := time.perf_counter()) < end:
            await submit(0)
            latencies.append(time.perf_counter() - begin)

    cpu, start, before = time.process_time(), time.perf_counter(), batches()
    await asyncio.gather(*[caller() for _ in range(callers)])
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    count = len(latencies)
    cuts = statistics.quantiles(latencies, n=100)
    ran = batches() - before
    print(
        f"{label:<24} {callers:>3} in flight {count / wall:>8.0f}/s {cpu / count * 1e6:>6.1f} us CPU"
        f"  p50 {cuts[49] * 1e6:>6.0f} us  p99 {cuts[98] * 1e6:>6.0f} us {count / max(ran, 1):>5.1f} a batch",
        flush=True,
    )


class _Count:
    def __init__(self) -> None:
        self.batches = 0

    def get(self) -> int:
        return self.batches

    def ran(self, items: int, rows: int, waited_s: float, run_s: float) -> None:
        self.batches += 1

    def dropped(self, reason: str, items: int) -> None:
        pass


async def _main(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    pool = concurrent.futures.ThreadPoolExecutor(1)
    nothing = _model("nothing", 0)

    async def through_executor(item: int) -> int:
        return (await loop.run_in_executor(pool, nothing, [item]))[0]

    for callers in arguments.callers:
        await _measure("run_in_executor, nothing", through_executor, callers, arguments.seconds, lambda: 0)
        for work in ("nothing", "sleep", "compute"):
            count = _Count()
            batcher: Batcher[int, int] = Batcher(
                _model(work, arguments.cost_ms / 1e3),
                BatchPolicy(64, 4096, arguments.max_delay_ms),
                size=lambda item: 1,
                key=lambda item: None,
                observer=count,
            )
            await _measure(f"batcher, {work}", batcher.submit, callers, arguments.seconds, count.get)
            await batcher.close(1.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64], help="callers at a time")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--cost-ms", type=float, default=0.5, help="of a model run that sleeps or computes")
    parser.add_argument("--max-delay-ms", type=float, default=0.0, help="as in BatchPolicy")
    parser.add_argument(
        "--switch-interval-ms", type=float, help="sys.setswitchinterval; Python's default is 5"
    )
    parser.add_argument("--uvloop", action="store_true", help="pyvoy's event loop")
    options = parser.parse_args()
    if options.switch_interval_ms:
        sys.setswitchinterval(options.switch_interval_ms / 1e3)
    if options.uvloop:
        import uvloop

        uvloop.run(_main(options))
    else:
        asyncio.run(_main(options))
