"""Metadata between HTTP/2 header fields and what handlers see."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping

Field = tuple[bytes, bytes]
"""Name, in lower case, and value."""

# Fields of the gRPC protocol itself, which are no metadata of the caller's.
GRPC_FIELDS = frozenset((b"content-type", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"))
# Custom-Metadata names of the gRPC over HTTP/2 protocol.
_PACKED = struct.Struct("=II")
_NAME = re.compile(r"[a-z0-9_.-]+")


class Metadata(Mapping[str, str]):
    """Header fields, decoded on first use, since most handlers never look.

    Args:
        headers: as an ASGI scope has them, or packed.
        hidden: names to leave out.
    """

    __slots__ = ("_decoded", "_headers", "_hidden")

    def __init__(self, headers: Iterable[Field] | bytes, hidden: frozenset[bytes] = GRPC_FIELDS) -> None:
        self._headers = headers
        self._hidden = hidden
        self._decoded: dict[str, str] | None = None

    def _values(self) -> dict[str, str]:
        values = self._decoded
        if values is None:
            values = {}
            headers = self._headers
            for name, value in unpack_fields(headers) if isinstance(headers, bytes) else headers:
                if name not in self._hidden:
                    key, text = name.decode("latin-1"), value.decode("latin-1")
                    values[key] = f"{values[key]},{text}" if key in values else text
            self._decoded = values
        return values

    def __getitem__(self, key: str) -> str:
        return self._values()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())


def pack_fields(fields: Iterable[Field]) -> bytes:
    """Header fields in one piece: of each the lengths of its name and value, 32 bits each, and the two."""
    return b"".join(_PACKED.pack(len(name), len(value)) + name + value for name, value in fields)


def unpack_fields(packed: bytes) -> Iterator[Field]:
    """The fields that were packed."""
    at = 0
    while at < len(packed):
        name, value = _PACKED.unpack_from(packed, at)
        at += _PACKED.size
        yield packed[at : at + name], packed[at + name : at + name + value]
        at += name + value


def check_metadata(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """Response metadata as pairs with lower-case keys.

    Raises:
        ValueError: a name or value that HTTP/2 or gRPC does not allow there.
    """
    pairs = []
    for name, value in metadata.items():
        key = name.lower()
        if not _NAME.fullmatch(key) or key.startswith("grpc-") or key == "content-type":
            raise ValueError(f"response metadata name {name!r} is not allowed")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"response metadata {name!r}: {value!r} is not printable ASCII")
        pairs.append((key, value))
    return pairs


def header_fields(metadata: Mapping[str, str]) -> list[Field]:
    """Response metadata as header fields; raises as `check_metadata` does."""
    return [(key.encode(), value.encode()) for key, value in check_metadata(metadata)]
