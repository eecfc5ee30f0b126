"""What a control plane leaves to the next one: the configuration that is in use, and what was found out about it.

In memory that the supervisor holds, never on a disk: there are keys in it. A control plane that starts again while the
files on the disk are wrong, or the name servers away, goes on with what Envoy has.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_HEAD = struct.Struct("=QQI")  # number, bytes, CRC-32 of them


@dataclass(frozen=True, slots=True)
class State:
    """What Envoy runs on now."""

    files: Mapping[Path, bytes] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of host names
    health: Mapping[str, str] = field(default_factory=dict)  # of pools: how their instances are checked
    version: int = 0
    rejected: int = 0


class Keepsake:
    """Two pieces of memory, written in turn: a process that is killed while it writes spoils only the older one."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._memory = (os.memfd_create("keepsake-0"), os.memfd_create("keepsake-1"))

    def close(self) -> None:
        for descriptor in self._memory:
            os.close(descriptor)

    def save(self, state: State) -> None:
        """Raises OSError."""
        body = json.dumps(
            {
                "files": {str(path): base64.b64encode(data).decode() for path, data in state.files.items()},
                "addresses": {name: list(found) for name, found in state.addresses.items()},
                "health": dict(state.health),
                "version": state.version,
                "rejected": state.rejected,
            }
        ).encode()
        number = max((head[0] for head in map(self._head, self._memory) if head), default=0) + 1
        memory = self._memory[number % 2]
        os.ftruncate(memory, 0)
        data, at = _HEAD.pack(number, len(body), zlib.crc32(body)) + body, 0
        while at < len(data):
            at += os.pwrite(memory, data[at:], at)

    def load(self) -> State | None:
        """The last state that was saved whole; None when there is none."""
        best: tuple[int, bytes] | None = None
        for memory in self._memory:
            head = self._head(memory)
            if head is None:
                continue
            number, size, crc = head
            body = os.pread(memory, size, _HEAD.size)
            if len(body) == size and zlib.crc32(body) == crc and (best is None or number > best[0]):
                best = number, body
        if best is None:
            return None
        found = json.loads(best[1])
        return State(
            {Path(path): base64.b64decode(data) for path, data in found["files"].items()},
            {name: tuple(addresses) for name, addresses in found["addresses"].items()},
            found["health"],
            found["version"],
            found["rejected"],
        )

    def _head(self, memory: int) -> tuple[int, int, int] | None:
        data = os.pread(memory, _HEAD.size, 0)
        return _HEAD.unpack(data) if len(data) == _HEAD.size else None
