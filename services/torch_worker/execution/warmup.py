"""Running a model before it is ready: caches, memory and compilers are warm when the first caller comes, a version that
cannot answer is found out, and the number of threads is chosen by what calls take.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from libs.serving.errors import ServingError
from services.torch_worker.config import ConfigError
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.compile import compile_failure
from services.torch_worker.execution.engine import Engine
from services.torch_worker.execution.loads import Load, RecordedLoad, synthetic_load
from services.torch_worker.execution.recorded import Recorded
from services.torch_worker.execution.threads import candidates, choose
from services.torch_worker.model.model_config import TensorSpec

log = logging.getLogger(__name__)

T = TypeVar("T")

# Larger calls than this say nothing new, and sixteen numbers of threads would take minutes.
_LONG_CALL_S = 0.5
# A call as long as this is worth a line in the log, for those who wait.
_SLOW_S = 2.0
# Of a measurement: at least so many calls, the fastest of which counts, and about so long.
_CALLS, _MEASURE_S = 3, 0.1


@dataclass(frozen=True, slots=True)
class Warmth:
    """What a warm-up found.

    Attributes:
        seconds: of a call, by the rows in it.
        threads: chosen for a call; None where nothing was measured.
    """

    seconds: dict[int, float]
    threads: int | None


class WarmUp:
    """Runs loads on every instance, in rising numbers of requests.

    Args:
        instances: model instances.
        max_rows: largest batch.
        sizes: further numbers of rows that calls will have, such as the preferred ones.
        budget_s: no new call begins after so long; a call that is under way ends.
        clock: seconds.
    """

    def __init__(
        self,
        *,
        instances: int,
        max_rows: int,
        sizes: Sequence[int] = (),
        budget_s: float = 30.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._instances = instances
        self._max_rows = max_rows
        self._sizes = sizes
        self._clock = clock
        self._end = clock() + budget_s

    def run(self, load: Load, name: str) -> dict[int, float]:
        """Calls of one request, of two, four ... and of the largest number, twice each; seconds by rows.

        The first call of a size allocates (and compiles, where that is on); the second is what later ones take. After a
        long call only the sizes that were asked for follow.
        """
        seconds: dict[int, float] = {}
        asked = {size // load.requests.rows for size in self._sizes}
        for instance in range(self._instances):
            taken: list[str] = []
            long = False
            for count in self._counts(load):
                if long and count not in asked:
                    continue
                if seconds and self._clock() >= self._end:
                    log.warning("warm-up with %s ends early: its time is over", name)
                    return seconds
                first = again = self._time(load, count, instance)
                long = first > _LONG_CALL_S
                if not long or count == 1:
                    again = self._time(load, count, instance)
                elif first > _SLOW_S:
                    log.info("warm-up with %s: %d requests took %.1f s", name, count, first)
                rows = count * load.requests.rows
                seconds[rows] = min(again, seconds.get(rows, again))
                taken.append(f"{rows}: {again * 1e3:.2f} ({first * 1e3:.2f})")
            log.info(
                "warm-up with %s, instance %d; ms (at first) by rows %s", name, instance, ", ".join(taken)
            )
        return seconds

    def choose_threads(self, load: Load, cores: int, set_threads: Callable[[int], None]) -> int | None:
        """The best number of threads for one call; None if there was no time to find out.

        Args:
            load: what the model's calls are like.
            cores: that this process may use.
            set_threads: makes further calls on this thread use so many.
        """
        options = candidates(cores, self._instances)
        if len(options) == 1:
            return options[0]
        set_threads(options[-1])
        largest = 1
        load.run(1, 0)
        for count in self._counts(load):
            taken = self._time(load, count, 0)
            if taken > _LONG_CALL_S and count > 1:
                break
            largest = count
            if taken > _LONG_CALL_S / 2:
                break
        measured: dict[int, dict[int, float]] = {}
        for threads in reversed(options):
            if self._clock() >= self._end:
                break
            set_threads(threads)
            measured[threads] = {count: self._fastest(load, count) for count in sorted({1, largest})}
        if not measured:
            return None
        chosen = choose(measured, cores, self._instances, load.requests)
        table = ", ".join(
            f"{threads}: " + " / ".join(f"{s * 1e3:.2f} ms" for s in times.values())
            for threads, times in sorted(measured.items())
        )
        log.info(
            "%d of %d cores for a call; 1 / %d requests take, by threads, %s", chosen, cores, largest, table
        )
        return chosen

    def _counts(self, load: Load) -> list[int]:
        """Numbers of requests to call with, ascending."""
        most = max(1, self._max_rows // load.requests.rows) if load.shared else 1
        powers = (1 << exponent for exponent in range(most.bit_length()))
        wanted = (size // load.requests.rows for size in self._sizes)
        return sorted({count for count in (*powers, *wanted, most) if 1 <= count <= most})

    def _time(self, load: Load, count: int, instance: int) -> float:
        start = self._clock()
        load.run(count, instance)
        return self._clock() - start

    def _fastest(self, load: Load, count: int) -> float:
        load.run(count, 0)  # starts the threads
        start = self._clock()
        fastest = float("inf")
        for calls in range(1, 1000):
            fastest = min(fastest, self._time(load, count, 0))
            now = self._clock()
            if calls >= _CALLS and now - start >= _MEASURE_S or now >= self._end:
                break
        return fastest


def warm_up(
    engine: Engine,
    callers: Sequence[ModelCaller],
    recorded: Sequence[Recorded],
    specs: Sequence[TensorSpec],
    warming: WarmUp,
    *,
    cores: int,
    threads: int | None,
    alone: bool,
    settled: Callable[[], None] = lambda: None,
    set_threads: Callable[[int], None] = torch.set_num_threads,
) -> Warmth:
    """Warm all instances up, with recorded requests where there are some, else with guessed rows.

    Args:
        recorded: requests, the typical one first.
        specs: the declared inputs.
        warming: how far to go.
        cores: that this process may use.
        threads: of a call, where that is settled; None chooses.
        alone: recorded requests only: where hooks call the model, nothing is known of its inputs.
        settled: called once the number of threads is, before the calls that warm up: what is compiled or recorded then
            is made for it.
        set_threads: makes further calls on this thread use so many.

    Raises:
        ConfigError: the model cannot answer a recorded request, or cannot be compiled. Guessed rows that fail say
            nothing.
    """
    loads: list[tuple[str, Load]] = []
    for request in recorded:
        try:
            loads.append((request.name, RecordedLoad(engine, callers, request)))
        except ServingError as error:
            raise _failed(request, error) from error
    if not loads and not alone:
        synthetic = synthetic_load(callers, specs, engine.shares_calls)
        if synthetic is not None:
            loads.append(("made-up rows", synthetic))
    if threads is None and loads:
        try:
            threads = warming.choose_threads(loads[0][1], cores, set_threads)
        except Exception as error:  # whatever the model raises
            if recorded:
                raise _failed(recorded[0], error) from error
            log.warning("warm-up with made-up rows failed, %s: %s", type(error).__name__, error)
    if threads is not None:
        set_threads(threads)
    settled()
    if not loads:
        log.info(
            "no warm-up: no recorded requests ([warmup] in config.toml), and no guess at them fits the model"
        )
    seconds: dict[int, float] = {}
    for index, (name, load) in enumerate(loads):
        try:
            seconds |= warming.run(load, name)
        except Exception as error:  # whatever the model raises
            not_compiled = compile_failure(error)
            if not_compiled is not None:
                raise not_compiled from error
            if recorded:
                raise _failed(recorded[index], error) from error
            log.warning("warm-up with made-up rows failed, %s: %s", type(error).__name__, error)
    return Warmth(seconds, threads)


def _failed(request: Recorded, error: Exception) -> ConfigError:
    return ConfigError(f"warm-up: the model cannot answer {request.name}: {error}")


def on_own_thread(work: Callable[[], T]) -> T:
    """Run work on a new thread, and wait for it: OpenMP keeps threads for every thread that ever called it, as long as
    that one lives.

    Raises:
        Whatever work raises.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="warm-up") as executor:
        return executor.submit(work).result()
