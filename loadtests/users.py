"""Locust's users: who calls, and when. gRPC under gevent; failures are named by their gRPC status."""

from __future__ import annotations

import random
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import gevent
import grpc
from gevent.pool import Pool
from locust import User, constant

from loadtests.scenarios import Scenario

MAX_IN_FLIGHT = 200  # of one user of the open loop; calls beyond are failures of the generator's
CHECK_EVERY = 50  # answers
GENERATOR = "GENERATOR_FULL"
NO_ANSWER = "BAD_ANSWER"


@dataclass(frozen=True)
class Load:
    """What users do.

    Attributes:
        address: host:port that is called.
        scenarios, weights: one scenario is drawn for each call.
        direct: call model servers by their own methods.
        checked: read some of the answers; those of an echo are none.
        timeout_s: deadline of a call.
        rate: calls a second of a user of the open loop; None: the closed loop.
        ended: told of every call: scenario, when it was due on the monotonic clock, seconds, and a failure's status.
    """

    address: str
    scenarios: Sequence[Scenario]
    weights: Sequence[float]
    direct: bool
    checked: bool
    timeout_s: float
    rate: float | None
    ended: Callable[[str, float, float, str | None], None]


class GrpcUser(User):  # type: ignore[misc]
    """A caller with a connection of its own."""

    abstract = True
    wait_time = constant(0)
    load: Load  # set on a subclass by `user_class`

    def on_start(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(self.load.address, options)
        paths = [s.direct if self.load.direct else s.path for s in self.load.scenarios]
        self._calls = [self._channel.unary_unary(path) for path in paths]
        self._bounds = list(accumulate(self.load.weights))
        self._random = random.Random(id(self))
        self._sent = 0

    def on_stop(self) -> None:
        self._channel.close()

    def draw(self) -> int:
        """The index of the next call's scenario."""
        if len(self._bounds) == 1:
            return 0
        return bisect(self._bounds, self._random.random() * self._bounds[-1])

    def call(self, index: int, since: float) -> None:
        """One call, whose time counts from `since`."""
        scenario = self.load.scenarios[index]
        failure: str | None = None
        answer = b""
        self._sent += 1
        check = self.load.checked and self._sent % CHECK_EVERY == 1
        try:
            answer = self._calls[index](scenario.body, timeout=self.load.timeout_s)
        except grpc.RpcError as error:
            failure = error.code().name
        now = time.monotonic()
        if check and failure is None:
            try:
                scenario.check(answer)
            except Exception:
                failure = NO_ANSWER
        self.report(scenario.name, since, now - since, failure, len(answer))

    def report(self, name: str, due: float, took_s: float, failure: str | None, size: int) -> None:
        """Tells the run, and Locust."""
        self.load.ended(name, due, took_s, failure)
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=took_s * 1e3,
            response_length=size,
            exception=RuntimeError(failure) if failure is not None else None,
            context={},
        )


class ClosedLoopUser(GrpcUser):
    """Calls, waits for the answer, and calls again."""

    abstract = True

    def calls(self) -> None:
        self.call(self.draw(), time.monotonic())

    tasks = [calls]  # noqa: RUF012 (Locust's way)


class OpenLoopUser(GrpcUser):
    """Begins calls at a constant rate, whether or not earlier ones were answered.

    A call's time counts from the moment it was due, so that waiting behind slow ones is not left out.
    """

    abstract = True

    def on_start(self) -> None:
        super().on_start()
        assert self.load.rate is not None
        self._pool = Pool(MAX_IN_FLIGHT)
        # Users begin at different moments, so that their calls do not come all at once.
        self._due = time.monotonic() + self._random.random() / self.load.rate

    def calls(self) -> None:
        assert self.load.rate is not None
        wait = self._due - time.monotonic()
        if wait > 0:
            gevent.sleep(wait)
        due, self._due = self._due, self._due + 1.0 / self.load.rate
        index = self.draw()
        if self._pool.full():
            self.report(self.load.scenarios[index].name, due, 0.0, GENERATOR, 0)
        else:
            self._pool.spawn(self.call, index, due)

    def on_stop(self) -> None:
        self._pool.join(self.load.timeout_s)
        super().on_stop()

    tasks = [calls]  # noqa: RUF012 (Locust's way)


def user_class(load: Load) -> Any:
    """The class of users of a load."""
    base = ClosedLoopUser if load.rate is None else OpenLoopUser
    return type(f"{base.__name__}Of", (base,), {"load": load, "abstract": False})
