"""Writes into the call log's file as filter/call_log.c does, for tests that need no Envoy."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_left
from pathlib import Path

from libs.balancing.endpoint import Endpoint
from services.gateway.metrics_counters import BOUNDS_US, REASONS

_TASK_BYTES, _INSTANCE_BYTES, _FAILURE_BYTES, _FAILURES = 704, 32, 512, 128


class Writer:
    """One of Envoy's threads. Slots are taken in order instead of by a hash, which readers do not know of."""

    def __init__(self, path: Path, thread: int) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._tasks, self._instances = struct.unpack_from("=II", self._memory, 20)
        blocks = 4096 + self._tasks * 32 + self._instances * 128
        self._failures_at = self._tasks * _TASK_BYTES + self._instances * _INSTANCE_BYTES
        self._block = blocks + thread * (self._failures_at + _FAILURES * _FAILURE_BYTES)
        struct.pack_into("=I", self._memory, 112 + 4 * thread, 1000 + thread)  # its owner
        self._slots: dict[tuple[int, bytes], int] = {}
        self._number = 0

    def call(
        self,
        task: str,
        *,
        duration_us: int,
        code: int = 0,
        reason: str = "",
        received: int = 0,
        sent: int = 0,
        retries: int = 0,
    ) -> None:
        at = self._block + self._slot(4096, 32, self._tasks, task.encode()) * _TASK_BYTES
        for word, value in (
            *((1, duration_us), (2, received), (3, sent), (4, retries), (16 + code, 1)),
            *([(5 + REASONS.index(reason), 1)] if reason else []),
            (33 + bisect_left(BOUNDS_US, duration_us), 1),
            (0, 1),
        ):
            self._add(at + 8 * word, value)

    def instance(self, pool: str, endpoint: Endpoint, *, latency_us: int) -> None:
        key = f"{pool} {endpoint.host}:{endpoint.port}".encode()
        slot = self._slot(4096 + self._tasks * 32, 128, self._instances, key)
        at = self._block + self._tasks * _TASK_BYTES + slot * _INSTANCE_BYTES
        self._add(at, 1)
        self._add(at + 8, latency_us)

    def failure(self, *, began: float, message: str) -> None:
        at = self._block + self._failures_at + self._number % _FAILURES * _FAILURE_BYTES
        self._number += 1
        texts = (b"69", b"task-69", b"10.0.0.1:8500", b"10.9.9.9:1234", b"why", message.encode())
        struct.pack_into(
            "=QQQQII16s64s56s56s64s216s",
            self._memory,
            at,
            *(self._number, int(began * 1e9), 250_000, 2, 14, REASONS.index("no_instance"), *texts),
        )

    def forgotten(self) -> None:
        """The reader gave back slots."""
        self._slots.clear()

    def _slot(self, keys: int, key_bytes: int, slots: int, name: bytes) -> int:
        known = self._slots.get((keys, name))
        if known is not None:
            return known
        for slot in range(slots):
            at = keys + slot * key_bytes
            state, length = struct.unpack_from("=II", self._memory, at)
            if state == 2 and self._memory[at + 8 : at + 8 + length] == name:
                break
            if state == 0:
                struct.pack_into("=II", self._memory, at, 2, len(name))
                self._memory[at + 8 : at + 8 + len(name)] = name
                break
        else:
            raise AssertionError("no slot is free")
        self._slots[keys, name] = slot
        return slot

    def _add(self, at: int, value: int) -> None:
        (before,) = struct.unpack_from("=Q", self._memory, at)
        struct.pack_into("=Q", self._memory, at, before + value)
