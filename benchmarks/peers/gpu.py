"""The worker's engine on a GPU, without a transport: rows per second of the ResNet-50 shape through batching, staging,
model call and answer, as a share of the bare `model(x)` loop; how full the batches are; and a profile of what copying
overlaps with computing. Runs by path in the worker's CUDA environment; ends with status 2 where there is no device."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libs.serving.batcher import Batcher, BatchPolicy
from services.torch_worker.execution.building import Execution, Instances
from services.torch_worker.execution.engine import Engine, Job
from services.torch_worker.execution.loads import synthetic_load
from services.torch_worker.execution.precision import autocasted
from services.torch_worker.execution.warmup import WarmUp
from services.torch_worker.model.hooks import Hooks

SHAPE = (1, 3, 224, 224)
BAR = 0.9


class Batches:
    """An observer that counts the rows of batches."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def ran(self, items: int, rows: int, waited_s: float, run_s: float) -> None:
        self.rows.append(rows)

    def dropped(self, reason: str, items: int) -> None:
        raise RuntimeError(f"{items} requests were dropped: {reason}")


def bare(model: Callable[..., Any], rows: int, device: torch.device, seconds: float) -> float:
    """Rows per second of `model(x)`, with x on the device already and nothing taken from it."""
    x = torch.rand(rows, *SHAPE[1:], device=device)
    with torch.inference_mode():
        for _ in range(3):
            model(x)
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        calls = 0
        while time.perf_counter() - start < seconds:
            model(x)
            calls += 1
            if calls % 4 == 0:  # the loop must not run ahead of the device by more than it is measured for
                torch.cuda.synchronize(device)
        torch.cuda.synchronize(device)
        return calls * rows / (time.perf_counter() - start)


async def served(
    engine: Engine, instances: Instances, policy: BatchPolicy, in_flight: int, seconds: float
) -> tuple[float, list[int]]:
    """Rows per second of requests of one row, and the rows of the batches they shared."""
    batches = Batches()

    def runner(index: int) -> Any:
        entered = False

        def run(jobs: Sequence[Job]) -> list[Any]:
            nonlocal entered
            if not entered:
                instances.callers[index].enter_thread()
                entered = True
            return engine.run(jobs, index)

        return run

    batcher: Batcher[Job, Any] = Batcher(
        [runner(index) for index in range(engine.instances)],
        policy,
        size=lambda job: job.rows,
        key=engine.key,
        observer=batches,
    )
    payload = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    end = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await batcher.submit(engine.prepare(payload, {"tags": {}}))
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    elapsed = time.perf_counter() - start
    await batcher.close(10.0)
    return done / elapsed, batches.rows


def overlap(events: Sequence[Any]) -> tuple[float, float]:
    """Microseconds that copies between host and device took, and how much of that something was computed meanwhile.

    Args:
        events: of torch's profiler, those of the device.
    """
    spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for event in events:
        copies = "memcpy htod" in event.name.lower() or "memcpy dtoh" in event.name.lower()
        spans[copies].append((event.time_range.start, event.time_range.end))
    kernels = _union(spans[False])
    copied = hidden = 0.0
    for start, end in _union(spans[True]):
        copied += end - start
        hidden += sum(max(0.0, min(end, b) - max(start, a)) for a, b in kernels)
    return copied, hidden


def _union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__)
    add = parser.add_argument
    add("--rows", type=int, default=64, help="largest batch [%(default)s]")
    add("--in-flight", type=int, default=256, help="requests of one row [%(default)s]")
    add("--instances", type=int, nargs="+", default=[1, 2], help="of the device [1 2]")
    add("--autocast", choices=["bfloat16", "float16"], help="both sides under it")
    add("--cuda-graphs", action="store_true", help="record the worker's calls")
    add("--seconds", type=float, default=5.0, help="of each measurement [%(default)s]")
    add("--rounds", type=int, default=3, help="of loop and engine in turns [%(default)s]")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print(
            "gpu: this benchmark needs a CUDA device and PyTorch with CUDA; there is none here",
            file=sys.stderr,
        )
        return 2
    sys.path.insert(0, str(Path(__file__).parent))
    build = importlib.import_module("convnets").build

    device = torch.device("cuda", 0)
    precision = options.autocast or "float32 without TF32"
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {precision}")
    execution = Execution(
        autocast=options.autocast, graph_sizes=(options.rows,) if options.cuda_graphs else ()
    )
    policy = BatchPolicy(options.rows, max(4 * options.in_flight, options.rows))
    best = 0.0
    for count in options.instances:
        model = build("resnet50").to(device)
        loop = partial(
            bare, model if options.autocast is None else autocasted(model, device, options.autocast)
        )
        instances = Instances(model, [device], Hooks(), replace(execution, instances=count))
        engine = Engine(instances.callers, Hooks(), folder=Path.cwd(), batchable=True)
        instances.settle()
        load = synthetic_load(instances.callers, (), True)
        if load is None:
            raise RuntimeError("the network does not take made-up rows")
        WarmUp(instances=count, max_rows=options.rows, sizes=(options.rows,)).run(load, "made-up rows")
        instances.warmed()
        shares, rates, loops, fills = [], [], [], []
        for _ in range(options.rounds):
            alone = loop(options.rows, device, options.seconds)
            rate, rows = asyncio.run(served(engine, instances, policy, options.in_flight, options.seconds))
            shares.append(rate / alone)
            rates.append(rate)
            loops.append(alone)
            fills.append(statistics.mean(rows) / options.rows)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            asyncio.run(served(engine, instances, policy, options.in_flight, 1.0))
        copied, hidden = overlap([e for e in profile.events() if e.device_type.name == "CUDA"])
        share = statistics.median(shares)
        best = max(best, share)
        print(
            f"{count} instances: {statistics.median(rates):.0f} rows/s, bare loop {statistics.median(loops):.0f}, "
            f"share {share:.2f}, "
            f"batches {statistics.mean(fills):.0%} full; copies took {copied / 1e3:.1f} ms of a second, "
            f"{hidden / max(copied, 1):.0%} of that beside computing"
        )
    print(f"best share {best:.2f}, bar {BAR} {'reached' if best >= BAR else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
