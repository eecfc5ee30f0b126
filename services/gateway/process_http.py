"""The little HTTP that Envoy's admin interface needs: one request, one answer, and the connection ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdminReply:
    status: int
    body: bytes


def request(method: str, target: str) -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()


def parse(raw: bytes) -> AdminReply:
    """The answer, all of it. Raises OSError when it is none, or was cut short."""
    head, _, body = raw.partition(b"\r\n\r\n")
    try:
        status = int(head.split(b" ", 2)[1])
    except (IndexError, ValueError):
        raise OSError(f"Envoy's admin answered {head[:80]!r}") from None
    chunked = b"transfer-encoding: chunked" in head.lower()
    return AdminReply(status, _unchunk(body) if chunked else body)


def _unchunk(data: bytes) -> bytes:
    """The body in HTTP/1.1 chunks. Raises OSError when it was cut short."""
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = data.find(b"\r\n", at)
        try:
            size = int(data[at:line_end], 16) if line_end >= 0 else -1
        except ValueError:
            size = -1
        start = line_end + 2
        if size < 0 or start + size > len(data):
            raise OSError("Envoy's admin broke off its answer")
        if size == 0:
            return b"".join(parts)
        parts.append(data[start : start + size])
        at = start + size + 2
