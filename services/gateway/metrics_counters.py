"""The call log's memory: what Envoy's threads count as each call ends, and the last failed calls, read without asking
Envoy.

A file that filter/call_memory.c maps and adds to; this module makes it and reads it. It outlives Envoy: a restarted one
goes on counting where the last one ended. All words are 64-bit and only grow, native byte order:

    head       4096 bytes: magic, size, numbers of blocks and slots, their bytes, calls lost, owners of the blocks
    task keys  32 bytes a slot: state, length, name of the route (the task id; "" for calls that matched no task)
    instance keys  128 bytes a slot: state, length, "pool host:port"
    blocks     one for each thread that counts: the tasks' words, the instances' words, the last failed calls
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, sub
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import unquote

from libs.balancing.endpoint import Endpoint

# Why a call did not end with OK. Each failed call has exactly one reason.
REASONS = (
    "timeout",  # no answer within the deadline
    "no_instance",  # no instance was up
    "overflow",  # too many calls in flight
    "rate_limited",
    "connect_failed",
    "broken_off",  # the instance closed or reset the call
    "caller_left",  # the caller cancelled, or its own deadline was over
    "denied",  # no key, no token, or not for this task
    "overload",  # the gateway protects itself
    "instance",  # the instance answered with an error
    "request",  # refused as it came: malformed, too large, unknown method or task
)
CODES = 17  # gRPC's status codes
# Upper bounds of the durations, microseconds: ten a decade.
BOUNDS_US = (
    *(round(step * 10**decade) for decade in (2, 3, 4, 5) for step in (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)),
    *(1_000_000, 1_250_000, 1_600_000, 2_000_000, 2_500_000, 3_150_000, 4_000_000, 5_000_000, 6_300_000, 10_000_000),
)  # fmt: skip

_MAGIC = 0x31474F4C4C4143
_HEAD = struct.Struct("=QQIIIIII")
_HEAD_BYTES, _LOST_AT, _OWNERS_AT, _MAX_BLOCKS = 4096, 40, 112, 960
_TAKEN = 2
_TASK_KEY_BYTES, _INSTANCE_KEY_BYTES = 32, 128
_REASONS_AT = 5
_CODES_AT = _REASONS_AT + len(REASONS)
_DURATIONS_AT = _CODES_AT + CODES
_TASK_WORDS = _DURATIONS_AT + len(BOUNDS_US) + 1 + 4  # whole cache lines
_INSTANCE_WORDS = 4
# Room for so many, powers of two: four times a large configuration. 3 MB a thread, of which memory holds what is used.
TASK_SLOTS, INSTANCE_SLOTS = 4096, 8192
_FAILURES = 128  # kept of each thread
_FAILURE = struct.Struct("=QQQQII16s64s56s56s64s216s")
_FAILURE_WORDS = _FAILURES * _FAILURE.size // 8

_Name = TypeVar("_Name")
Key = tuple[str, Endpoint]  # pool and instance

UNKNOWN = ""  # the name of calls that matched no task


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """What a task's calls came to since the start. `words` is the memory's, summed over the threads."""

    words: array[int]

    @property
    def calls(self) -> int:
        return self.words[0]

    @property
    def duration_s(self) -> float:
        """The sum over all calls."""
        return self.words[1] / 1e6

    @property
    def received_bytes(self) -> int:
        return self.words[2]

    @property
    def sent_bytes(self) -> int:
        return self.words[3]

    @property
    def retries(self) -> int:
        return self.words[4]

    @property
    def reasons(self) -> array[int]:
        """Failed calls by REASONS."""
        return self.words[_REASONS_AT:_CODES_AT]

    @property
    def codes(self) -> array[int]:
        """Calls by gRPC status code."""
        return self.words[_CODES_AT:_DURATIONS_AT]

    @property
    def durations(self) -> array[int]:
        """Calls by duration: up to each of BOUNDS_US, then the longer ones. Not cumulative."""
        return self.words[_DURATIONS_AT : _DURATIONS_AT + len(BOUNDS_US) + 1]

    def since(self, earlier: TaskCounts | None) -> TaskCounts:
        """What came after `earlier`; all of it where the counts began anew in between."""
        if earlier is self:
            return NOTHING
        if earlier is None or earlier.calls > self.calls:
            return self
        return TaskCounts(array("Q", map(sub, self.words, earlier.words)))

    def plus(self, other: TaskCounts) -> TaskCounts:
        return TaskCounts(array("Q", map(add, self.words, other.words)))


NOTHING = TaskCounts(array("Q", bytes(8 * _TASK_WORDS)))


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """An instance of a pool: calls that it answered, the time that took, and last attempts at it that failed."""

    answered: int
    latency_us: int
    failed: int


@dataclass(frozen=True, slots=True)
class FailedCall:
    """One call that did not end with OK. Texts are as Envoy had them, perhaps cut."""

    began: float  # seconds since the epoch
    duration_s: float
    code: int  # gRPC status
    reason: str  # of REASONS
    task: str  # "" when the call never named one
    pool: str  # with the instance, "" when none was asked
    instance: str
    caller: str
    details: str  # Envoy's, like "upstream_response_timeout"
    message: str


class CounterFile:
    """The file, mapped. One process reads; any number of Envoy threads add, up to the number of blocks."""

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self.path = path
        self._memory = memory
        _, _, self._blocks, self._task_slots, self._instance_slots, *_ = _HEAD.unpack_from(memory)
        self._task_keys_at = _HEAD_BYTES
        self._instance_keys_at = _HEAD_BYTES + self._task_slots * _TASK_KEY_BYTES
        blocks_at = self._instance_keys_at + self._instance_slots * _INSTANCE_KEY_BYTES
        self._words = memoryview(memory).cast("Q")
        self._halves = memoryview(memory).cast("I")
        self._first_block = blocks_at // 8
        self._failures_at = self._task_slots * _TASK_WORDS + self._instance_slots * _INSTANCE_WORDS
        self._block_words = self._failures_at + _FAILURE_WORDS
        self._task_names: dict[int, str] = {}
        self._instance_names: dict[int, Key] = {}
        self._instance_slots_of: dict[Key, list[int]] = {}  # one, as a rule: see forget
        self._seen: dict[int, TaskCounts] = {}  # by slot: an idle task costs nothing

    @classmethod
    def create(cls, path: Path, *, threads: int) -> Self:
        """Makes the file for so many Envoy threads. Raises OSError; a file that is there and fits is used, with what it
        counted.
        """
        # Envoy's main thread may log too, and another Envoy of this machine may share the configuration.
        blocks = min(_MAX_BLOCKS, threads + 2)
        task_slots, instance_slots = TASK_SLOTS, INSTANCE_SLOTS
        task_bytes, instance_bytes, failure_bytes = 8 * _TASK_WORDS, 8 * _INSTANCE_WORDS, 8 * _FAILURE_WORDS
        size = (
            _HEAD_BYTES
            + task_slots * _TASK_KEY_BYTES
            + instance_slots * _INSTANCE_KEY_BYTES
            + blocks * (task_slots * task_bytes + instance_slots * instance_bytes + failure_bytes)
        )
        head = _HEAD.pack(
            _MAGIC, size, blocks, task_slots, instance_slots, task_bytes, instance_bytes, failure_bytes
        )
        try:
            with path.open("rb") as file:
                fits = file.read(len(head)) == head and os.fstat(file.fileno()).st_size == size
        except FileNotFoundError:
            fits = False
        if not fits:
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as file:
                # All of it now: memory that cannot be had later would kill Envoy.
                os.posix_fallocate(file.fileno(), 0, size)
                file.write(head)
            fresh.replace(path)
        with path.open("r+b") as file:
            return cls(path, mmap.mmap(file.fileno(), size))

    @property
    def lost(self) -> int:
        """Calls that were not counted because there were too many different tasks."""
        return self._words[_LOST_AT // 8]

    def tasks(self) -> dict[str, TaskCounts]:
        """The counts of each task that was ever called, by route name."""
        names = self._names(self._task_keys_at, _TASK_KEY_BYTES, self._task_slots, self._task_names, str)
        found: dict[str, TaskCounts] = {}
        blocks = self._used_blocks()
        for slot, name in names.items():
            counts = self._task(slot, blocks)
            found[name] = found[name].plus(counts) if name in found else counts
        return found

    def instances(self) -> dict[Key, InstanceCounts]:
        """The counts of each instance that was ever called, by pool and address."""
        self._look_for_instances()
        starts = self._instance_blocks()
        return {key: self._instance(slots, starts) for key, slots in self._instance_slots_of.items()}

    def _look_for_instances(self) -> None:
        known = len(self._instance_names)
        names = self._names(
            self._instance_keys_at, _INSTANCE_KEY_BYTES, self._instance_slots, self._instance_names, _instance
        )
        if len(names) != known:
            self._index_instances()

    def _index_instances(self) -> None:
        self._instance_slots_of = {}
        for slot, key in self._instance_names.items():
            self._instance_slots_of.setdefault(key, []).append(slot)

    def _instance_blocks(self) -> list[int]:
        return [block + self._task_slots * _TASK_WORDS for block in self._used_blocks()]

    def _instance(self, slots: Iterable[int], starts: Sequence[int]) -> InstanceCounts:
        answered = latency = failed = 0
        for slot in slots:
            for start in starts:
                at = start + slot * _INSTANCE_WORDS
                answered += self._words[at]
                latency += self._words[at + 1]
                failed += self._words[at + 2]
        return InstanceCounts(answered, latency, failed)

    def failures(self, most: int = 100) -> list[FailedCall]:
        """The last failed calls, the newest first."""
        found = []
        for block in self._used_blocks():
            for at in range((block + self._failures_at) * 8, (block + self._block_words) * 8, _FAILURE.size):
                number = self._words[at // 8]
                fields = _FAILURE.unpack_from(self._memory, at) if number else ()
                # Writing it again began meanwhile: it is being replaced by a newer one.
                if fields and self._words[at // 8] == number:
                    found.append(_failure(*fields[1:]))
        found.sort(key=lambda call: -call.began)
        return found[:most]

    def forget(
        self, keep_task: Callable[[str], bool], keep_instance: Callable[[str, Endpoint], bool]
    ) -> None:
        """Gives back the room of tasks and instances that are gone, once half of the room is in use.

        A key that was pushed on by one that is given back may get a second slot: they are added up.
        """
        if 2 * len(self._task_names) > self._task_slots:
            for slot, name in list(self._task_names.items()):
                if not keep_task(name):
                    self._clear(slot, 0, _TASK_WORDS)
                    self._free(self._task_keys_at + slot * _TASK_KEY_BYTES)
                    del self._task_names[slot]
                    self._seen.pop(slot, None)
        if 2 * len(self._instance_names) > self._instance_slots:
            for slot, key in list(self._instance_names.items()):
                if not keep_instance(*key):
                    self._clear(slot, self._task_slots * _TASK_WORDS, _INSTANCE_WORDS)
                    self._free(self._instance_keys_at + slot * _INSTANCE_KEY_BYTES)
                    del self._instance_names[slot]
            self._index_instances()

    def close(self) -> None:
        self._words.release()
        self._halves.release()
        self._memory.close()

    def _used_blocks(self) -> list[int]:
        """Where each block begins that a thread ever had."""
        owners = self._halves[_OWNERS_AT // 4 : _OWNERS_AT // 4 + self._blocks]
        return [self._first_block + n * self._block_words for n, owner in enumerate(owners) if owner]

    def _names(
        self, at: int, key_bytes: int, slots: int, known: dict[int, _Name], read: Callable[[str], _Name]
    ) -> dict[int, _Name]:
        states = self._halves[at // 4 : (at + slots * key_bytes) // 4 : key_bytes // 4]
        for slot, state in enumerate(states):
            if state == _TAKEN and slot not in known:
                key = at + slot * key_bytes
                length = self._halves[key // 4 + 1]
                known[slot] = read(self._memory[key + 8 : key + 8 + length].decode("utf-8", "replace"))
        return known

    def _task(self, slot: int, blocks: list[int]) -> TaskCounts:
        starts = [block + slot * _TASK_WORDS for block in blocks]
        before = self._seen.get(slot)
        # Read before the other words: the writer writes it after them.
        calls = sum(self._words[start] for start in starts)
        if before is not None and before.calls == calls:
            return before
        parts = [
            TaskCounts(array("Q", self._words[start : start + _TASK_WORDS].tobytes())) for start in starts
        ]
        counts = reduce(TaskCounts.plus, parts, NOTHING)
        counts.words[0] = calls
        self._seen[slot] = counts
        return counts

    def _clear(self, slot: int, offset: int, words: int) -> None:
        for n in range(self._blocks):
            at = (self._first_block + n * self._block_words + offset + slot * words) * 8
            self._memory[at : at + 8 * words] = bytes(8 * words)

    def _free(self, key: int) -> None:
        self._halves[key // 4] = 0


def _failure(began_ns: int, us: int, flags: int, code: int, reason: int, *texts: bytes) -> FailedCall:
    task, pool, instance, caller, details, message = (
        text.partition(b"\0")[0].decode("utf-8", "replace") for text in texts
    )
    return FailedCall(
        began_ns / 1e9,
        us / 1e6,
        code,
        REASONS[reason],
        task,
        pool,
        instance,
        caller,
        details,
        unquote(message),
    )


def _instance(key: str) -> Key:
    pool, _, address = key.rpartition(" ")
    host, _, port = address.rpartition(":")
    return pool, Endpoint(host, int(port))
