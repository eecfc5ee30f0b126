"""One phase of load by Locust, here or on several machines."""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import gevent
import gevent.event
import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import LoadTestShape
from locust.env import Environment

from loadtests.histogram import Series
from loadtests.shapes import Users
from loadtests.users import Load, user_class

TICK_S = 0.5
JOIN_S = 60.0
STOP_MARGIN_S = 2.0  # beyond the deadline of calls
LAST_WORD_S = 0.5
REPORT = "loadtests"  # the key of what a worker tells its master beyond Locust's own


@dataclass(frozen=True, slots=True)
class Place:
    """Where the load comes from: this process alone, or workers that connect to a master.

    Attributes:
        workers: that the master waits for; 0: this process.
        master: host and port that the master listens on, or that a worker connects to.
    """

    workers: int = 0
    master: tuple[str, int] = ("127.0.0.1", 5557)


class Recorder:
    """Sums up calls by scenario and by the second of the run in which they were due.

    Not by that in which they ended: calls that are still waiting when a run is over would be in none.
    """

    def __init__(self) -> None:
        self.series: dict[str, Series] = defaultdict(Series)
        self._since = time.monotonic()

    def begin(self, **_: object) -> None:
        """The run begins now, which is not when a worker was started that waited for others."""
        self._since = time.monotonic()

    def ended(self, name: str, due: float, took_s: float, failure: str | None) -> None:
        self.series[name].add(int(due - self._since), took_s, failure)

    def take(self) -> dict[str, Any]:
        """What has come since it was last taken, as JSON has it."""
        taken = {name: series.dump() for name, series in self.series.items()}
        self.series.clear()
        return taken

    def add(self, taken: dict[str, Any]) -> None:
        for name, data in taken.items():
            self.series[name].merge(Series.load(data))


def prepare() -> None:
    """gRPC's threads are to wait for gevent. Called once, before any channel is made."""
    grpc_gevent.init_gevent()
    logging.getLogger("locust").setLevel(logging.WARNING)


def reach(address: str, timeout_s: float) -> None:
    """Finds out that something listens.

    Raises:
        RuntimeError: nothing does.
    """
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout_s)
        except grpc.FutureTimeoutError:
            raise RuntimeError(f"nothing answers at {address} (waited {timeout_s:g} s)") from None


def run(load: Load, users: Users, recorder: Recorder, place: Place, label: str) -> list[dict[str, Any]]:
    """Applies a load until its shape ends; what came of it is in the recorder.

    Args:
        label: what to call it in the progress line on standard error.

    Returns:
        Locust's own statistics.

    Raises:
        TimeoutError: fewer workers connected than were asked for.
    """

    class Shape(LoadTestShape):  # type: ignore[misc]
        def tick(self) -> tuple[int, float] | None:
            now = users(self.get_run_time())  # type: ignore[no-untyped-call]
            return None if now is None else (now, max(100.0, now))

    shape = Shape()  # type: ignore[no-untyped-call]
    environment = Environment(
        user_classes=[user_class(load)], shape_class=shape, stop_timeout=load.timeout_s + STOP_MARGIN_S
    )
    environment.events.test_start.add_listener(recorder.begin)  # type: ignore[no-untyped-call]
    runner: Any
    if place.workers:
        runner = environment.create_master_runner(*place.master)
        environment.events.worker_report.add_listener(  # type: ignore[no-untyped-call]
            lambda client_id, data: recorder.add(data.get(REPORT, {}))
        )
        _await_workers(runner, place.workers)
    else:
        runner = environment.create_local_runner()
    runner.start_shape()
    try:
        while runner.shape_greenlet is not None and not runner.shape_greenlet.dead:
            gevent.sleep(TICK_S)
            _progress(label, recorder, runner.user_count)
    finally:
        _clear_progress()
        runner.stop()
        statistics: list[dict[str, Any]] = [dict(entry) for entry in environment.stats.serialize_stats()]
        runner.quit()
    return statistics


def work(load: Load, recorder: Recorder, place: Place) -> None:
    """Applies load as a master says, until it ends."""
    environment = Environment(user_classes=[user_class(load)], stop_timeout=load.timeout_s + STOP_MARGIN_S)
    events: Any = environment.events
    events.test_start.add_listener(recorder.begin)
    events.report_to_master.add_listener(lambda client_id, data: data.update({REPORT: recorder.take()}))
    ended = gevent.event.Event()
    runner: Any = environment.create_worker_runner(*place.master)

    def stopped(**_: object) -> None:
        # Locust reports every 3 s, and its master is gone before the last time.
        data: dict[str, Any] = {}
        events.report_to_master.fire(client_id=runner.client_id, data=data)
        runner.send_message("stats", data)
        ended.set()

    events.test_stop.add_listener(stopped)
    # A master that goes away is noticed by Locust, which ends the greenlets then.
    while not ended.wait(TICK_S) and len(runner.greenlet):
        pass
    gevent.sleep(LAST_WORD_S)  # Locust tells the master that this worker has stopped
    runner.quit()


def _await_workers(runner: Any, workers: int) -> None:
    end = time.monotonic() + JOIN_S
    while len(runner.clients.ready) < workers:
        if time.monotonic() > end:
            runner.quit()
            raise TimeoutError(
                f"{len(runner.clients.ready)} of {workers} workers connected within {JOIN_S:.0f} s"
            )
        gevent.sleep(0.1)


def _progress(label: str, recorder: Recorder, users: int) -> None:
    if not sys.stderr.isatty():
        return
    last = Series()
    for series in list(recorder.series.values()):
        for at in sorted(series.seconds)[-2:-1]:
            last.merge(Series({0: series.seconds[at]}))
    times, failed = last.times, last.failures.total()
    text = f"{label}: {users} users  {times.total} /s  p50 {times.percentile(0.5):.2f} ms"
    text += f"  p99 {times.percentile(0.99):.2f} ms" + (f"  {failed} failed" if failed else "")
    print(f"\r\033[K  {text}", end="", file=sys.stderr, flush=True)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
