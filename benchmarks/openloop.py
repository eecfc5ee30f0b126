"""Calls at a fixed rate, whatever the answers do: a system that stalls meets the same traffic as one that does not."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

import grpc


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `due_s` is when it had to be sent (time.monotonic); `took_s` counts from then, so a client that
    falls behind shows it as latency."""

    due_s: float
    took_s: float
    status: str
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.status == "OK"


@dataclass(slots=True)
class OpenLoop:
    """Sends `body` to `method` `rate` times a second until the block ends; every outcome is kept in `calls`.

    Several connections, as several callers would have: a proxy's threads each own some of them.
    """

    address: str
    method: str
    body: bytes
    rate: float
    timeout_s: float = 1.0
    connections: int = 4
    roots: bytes = b""  # with them TLS: the certificates that the server may have
    calls: list[Call] = field(default_factory=list)
    sent: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _channels: list[Any] = field(default_factory=list)

    def __enter__(self) -> Self:
        for _ in range(self.connections):
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            if self.roots:
                # whatever name the certificate was made for
                named = [*options, ("grpc.ssl_target_name_override", "gateway.test")]
                channel = grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.roots), named)
            else:
                channel = grpc.insecure_channel(self.address, options)
            grpc.channel_ready_future(channel).result(timeout=10)
            self._channels.append(channel)
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        deadline = time.monotonic() + self.timeout_s + 5.0
        while len(self.calls) < self.sent and time.monotonic() < deadline:
            time.sleep(0.01)
        for channel in self._channels:
            channel.close()
        lost = self.sent - len(self.calls)
        if lost:
            raise RuntimeError(f"{lost} calls never ended, not even at their deadline")

    def _send(self) -> None:
        stubs = itertools.cycle([channel.unary_unary(self.method) for channel in self._channels])
        started = time.monotonic()
        for number in itertools.count():
            due = started + number / self.rate
            pause = due - time.monotonic()
            if pause > 0 and self._stop.wait(pause):
                return
            if self._stop.is_set():
                return
            self.sent += 1
            future = next(stubs).future(self.body, timeout=self.timeout_s)
            future.add_done_callback(lambda done, due=due: self._done(done, due))

    def _done(self, future: Any, due: float) -> None:
        code = future.code()
        message = "" if code is grpc.StatusCode.OK else future.details() or ""
        self.calls.append(Call(due, time.monotonic() - due, code.name, message))
