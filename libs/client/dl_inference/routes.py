"""Where a call goes: one address, or the instances of its task, balanced over here. Pure but for reading the file."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dl_inference.errors import NotFound
from libs.balancing import nodefile
from libs.balancing.endpoint import Endpoint
from libs.balancing.policies import make
from libs.balancing.policy import Policy, PolicyName

_LOOK_S = 1.0
"""How often the node file is looked at, at most, and then only when a call is made."""


_WEIGHT = 100
"""Of each instance that is well; failures take it down in steps of one."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one attempt goes.

    Attributes:
        target: gRPC target of the channel.
        direct: whether the target is the instance that answers, rather than a gateway.
        timeout_s: the most that the task allows; None for no such bound.
        done: to be told how the attempt ended, once: whether it speaks against the instance, and seconds.
    """

    target: str
    direct: bool
    done: Callable[[bool, float], None]
    timeout_s: float | None = None


class Routes(Protocol):
    """Finds routes. Thread-safe; never waits for the network."""

    def pick(self, task: int | None, model: str, tried: Collection[str]) -> Route:
        """A route for the next attempt, elsewhere than `tried` where there is an elsewhere.

        Raises:
            NotFound: no such task.
        """
        ...


def _ignore(ok: bool, seconds: float) -> None:
    return None


class OneAddress:
    """Everything goes to one server."""

    def __init__(self, target: str) -> None:
        self._route = Route(target, direct=False, done=_ignore)

    def pick(self, task: int | None, model: str, tried: Collection[str]) -> Route:
        """See Routes."""
        return self._route


class Xds:
    """gRPC balances by itself, told by a control plane (a gateway's) which GRPC_XDS_BOOTSTRAP names."""

    def pick(self, task: int | None, model: str, tried: Collection[str]) -> Route:
        """See Routes."""
        if task is None:
            raise NotFound(f"the name {model!r} says no task: end it in -<number>, or give task=")
        return Route(f"xds:///task-{task}", direct=True, done=_ignore)


@dataclass(slots=True)
class _Pool:
    timeout_s: float
    endpoints: tuple[Endpoint, ...]
    policy: Policy


class NodeFile:
    """The instances that a node file lists for each task. It is read again when it changes; a file with an error
    changes nothing.

    Raises:
        ValueError: the file cannot be used at the start; every error in it, by line.
        OSError: it cannot be read at the start.
    """

    def __init__(
        self, path: Path, policy: PolicyName, clock: Callable[[], float], rng: random.Random
    ) -> None:
        self._path = path
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self._pools: dict[int, _Pool] = {}
        self._seen: object = None
        self._look_at = 0.0
        self.error = ""
        """What is wrong with the file as it is now; "" while it is in use."""
        self._read()
        if self.error:
            raise ValueError(self.error)

    def pick(self, task: int | None, model: str, tried: Collection[str]) -> Route:
        """See Routes."""
        if task is None:
            raise NotFound(f"the name {model!r} says no task: end it in -<number>, or give task=")
        with self._lock:
            if self._clock() >= self._look_at:
                self._read()
            pool = self._pools.get(task)
            if pool is None:
                raise NotFound(f"task {task} is not in {self._path}")
            elsewhere = [one for one in pool.endpoints if _target(one) not in tried] if tried else []
            if elsewhere:
                # The policy picks first attempts only: it counts what it has picked.
                return Route(_target(self._rng.choice(elsewhere)), True, _ignore, pool.timeout_s)
            endpoint = pool.policy.pick()
        return Route(_target(endpoint), True, self._teller(pool, endpoint), pool.timeout_s)

    def _teller(self, pool: _Pool, endpoint: Endpoint) -> Callable[[bool, float], None]:
        def done(ok: bool, seconds: float) -> None:
            with self._lock:
                pool.policy.done(endpoint, ok=ok, latency_s=seconds)

        return done

    def _read(self) -> None:
        """Take up the file when it has changed."""
        self._look_at = self._clock() + _LOOK_S
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            lines, problems = nodefile.read(self._path.read_bytes())
        except OSError as error:
            self.error = f"{self._path}: {error.strerror}"
            return
        self._seen = seen
        self.error = "\n".join(f"{self._path}:{problem}" for problem in problems)
        if problems:
            return
        self._pools = {line.task_id: self._pool(line) for line in lines}

    def _pool(self, line: nodefile.NodeLine) -> _Pool:
        timeout_s = (line.timeout_ms or nodefile.DEFAULT_TIMEOUT_MS) / 1000
        members = dict.fromkeys(line.endpoints, _WEIGHT)
        pool = self._pools.get(line.task_id)
        if pool is None:
            policy = make(self._policy, members, self._rng, self._clock)
            return _Pool(timeout_s, line.endpoints, policy)
        if pool.endpoints != line.endpoints:
            pool.policy.set_members(members)  # keeps what it has learned of those that stay
        pool.timeout_s, pool.endpoints = timeout_s, line.endpoints
        return pool


def _target(endpoint: Endpoint) -> str:
    """A name stands for all of its addresses."""
    return f"dns:///{endpoint}" if endpoint.is_name else str(endpoint)
