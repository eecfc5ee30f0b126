"""A closed loop of calls, and what came of it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import click

from dl_inference.aio import AsyncClient
from dl_inference.calls import Call
from dl_inference.errors import InferenceError
from dl_inference.options import Options

_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds of each call that was answered, sorted; failures by status with an example; how long it all took."""

    took: list[float]
    failures: Counter[str]
    examples: dict[str, str]
    instances: Counter[str]
    seconds: float

    def table(self) -> str:
        """Rate and latency, failures, and who answered."""
        lines = [f"{len(self.took)} answers in {self.seconds:.1f} s: {len(self.took) / self.seconds:.0f}/s"]
        if self.took:
            marks = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"))
            parts = [f"{name} {self.at(share) * 1000:.1f} ms" for share, name in marks]
            lines.append("  ".join([*parts, f"max {self.took[-1] * 1000:.1f} ms"]))
        for instance, count in self.instances.most_common():
            lines.append(f"  {count / len(self.took):6.1%}  {instance}")
        for code, count in self.failures.most_common():
            lines.append(f"failed: {count} x {code}, such as: {self.examples[code]}")
        return "\n".join(lines)

    def at(self, share: float) -> float:
        """Seconds that this share of the answers did not exceed."""
        return self.took[min(len(self.took) - 1, int(share * len(self.took)))]


async def run(
    address: str, nodes: str, options: Options, call: Call[Any], in_flight: int, seconds: float
) -> Result:
    """Keep `in_flight` calls open for some seconds, with a progress bar on a terminal."""
    client = AsyncClient.direct(nodes, options=options) if nodes else AsyncClient(address, options)
    took: list[float] = []
    failures: Counter[str] = Counter()
    examples: dict[str, str] = {}
    instances: Counter[str] = Counter()
    began = time.monotonic()

    async def caller() -> None:
        while time.monotonic() - began < seconds:
            start = time.perf_counter()
            try:
                reply = await client.call(call)
            except InferenceError as error:
                failures[error.code] += 1
                examples.setdefault(error.code, error.message)
                await asyncio.sleep(_TICK_S)  # a server that refuses at once is not to be flooded
            else:
                took.append(time.perf_counter() - start)
                if reply.instance:
                    instances[reply.instance] += 1

    callers = [asyncio.create_task(caller()) for _ in range(in_flight)]
    with click.progressbar(length=int(seconds / _TICK_S), label="calling", file=sys.stderr) as bar:
        for _ in range(bar.length or 0):
            await asyncio.sleep(_TICK_S)
            bar.update(1)
    await asyncio.gather(*callers)
    lasted = time.monotonic() - began
    await client.close()
    return Result(sorted(took), failures, examples, instances, lasted)
