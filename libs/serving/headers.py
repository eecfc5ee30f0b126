"""Metadata between HTTP/2 header fields and what handlers see."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

# Fields of the gRPC protocol itself, which are no metadata of the caller's.
GRPC_FIELDS = frozenset((b"content-type", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"))
# Custom-Metadata names of the gRPC over HTTP/2 protocol.
_NAME = re.compile(r"[a-z0-9_.-]+")


class Metadata(Mapping[str, str]):
    """Header fields of an ASGI scope, decoded on first use, since most handlers never look.

    Args:
        headers: names (in lower case) and values.
        hidden: names to leave out.
    """

    __slots__ = ("_decoded", "_headers", "_hidden")

    def __init__(
        self, headers: Iterable[tuple[bytes, bytes]], hidden: frozenset[bytes] = GRPC_FIELDS
    ) -> None:
        self._headers = headers
        self._hidden = hidden
        self._decoded: dict[str, str] | None = None

    def _values(self) -> dict[str, str]:
        values = self._decoded
        if values is None:
            values = {}
            for name, value in self._headers:
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


def header_fields(metadata: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Response metadata as header fields; raises as `check_metadata` does."""
    return [(key.encode(), value.encode()) for key, value in check_metadata(metadata)]
