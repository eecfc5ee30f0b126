"""What a SeldonMessage carries beside its payload, Meta and Status: raw bytes <-> Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from libs.proto import jsonvalue
from libs.proto.wire import (
    MAX_DEPTH,
    Buffer,
    Span,
    as_buffer,
    fields,
    len_field,
    read_float,
    read_string,
    string_field,
    to_int32,
    varint_field,
)


@dataclass(frozen=True, slots=True)
class Metric:
    """A measurement of the model's own. `type` is 0: counter, 1: gauge or 2: timer (milliseconds)."""

    key: str
    value: float
    type: int = 0
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Meta:
    """A decoded Meta; `tags` as in SeldonRequest."""

    puid: str
    tags: dict[str, Any]
    routing: dict[str, int]
    request_path: dict[str, str]
    metrics: list[Metric]


@dataclass(frozen=True, slots=True)
class Status:
    """A decoded Status. `code` is HTTP's; `failed` is the status flag."""

    code: int = 0
    info: str = ""
    reason: str = ""
    failed: bool = False


# Tags of Meta, its map entries and Metric.
_PUID, _TAGS, _ROUTING, _REQUEST_PATH, _METRICS = (number << 3 | 2 for number in range(1, 6))
_KEY, _ENTRY_NUMBER, _ENTRY_TEXT = 1 << 3 | 2, 2 << 3, 2 << 3 | 2
_METRIC_TYPE, _METRIC_VALUE, _METRIC_TAGS = 2 << 3, 3 << 3 | 5, 4 << 3 | 2


def decode_tags(raw: bytes) -> tuple[str, dict[str, Any], bool]:
    """A Meta's puid and tags, and whether it has other fields, which are not looked into."""
    puid = ""
    more = False
    entries: list[Span] = []
    for tag, a, b in fields(raw, 0, len(raw)):
        if tag == _TAGS:
            entries.append((a, b))
        elif tag == _PUID:
            puid = read_string(raw, a, b)
        else:
            more = True
    tags = jsonvalue.decode_map(raw, entries, MAX_DEPTH - 1)
    for key, value in tags.items():
        if isinstance(value, float) and value.is_integer():
            tags[key] = int(value)
    return puid, tags, more


def decode_meta(raw: Buffer) -> Meta:
    """Decode a serialized Meta, such as `SeldonRequest.raw_meta`. Raises ProtoError when it is malformed."""
    buf = bytes(raw)
    puid, tags, _ = decode_tags(buf)
    routing: dict[str, int] = {}
    request_path: dict[str, str] = {}
    metrics = []
    for tag, a, b in fields(buf, 0, len(buf)):
        if tag == _ROUTING:
            key, branch = "", 0
            for entry_tag, start, end in fields(buf, a, b):
                if entry_tag == _KEY:
                    key = read_string(buf, start, end)
                elif entry_tag == _ENTRY_NUMBER:
                    branch = to_int32(start)
            routing[key] = branch
        elif tag == _REQUEST_PATH:
            request_path.update([_text_entry(buf, a, b)])
        elif tag == _METRICS:
            metrics.append(_decode_metric(buf, a, b))
    return Meta(puid, tags, routing, request_path, metrics)


def _text_entry(buf: Buffer, start: int, end: int) -> tuple[str, str]:
    """An entry of a `map<string, string>`."""
    key = text = ""
    for tag, a, b in fields(buf, start, end):
        if tag == _KEY:
            key = read_string(buf, a, b)
        elif tag == _ENTRY_TEXT:
            text = read_string(buf, a, b)
    return key, text


def _decode_metric(buf: Buffer, start: int, end: int) -> Metric:
    key, kind, value = "", 0, 0.0
    tags: dict[str, str] = {}
    for tag, a, b in fields(buf, start, end):
        if tag == _KEY:
            key = read_string(buf, a, b)
        elif tag == _METRIC_TYPE:
            kind = to_int32(a)
        elif tag == _METRIC_VALUE:
            value = read_float(buf, a)[0]
        elif tag == _METRIC_TAGS:
            tags.update([_text_entry(buf, a, b)])
    return Metric(key, value, kind, tags)


def decode_status(raw: Buffer) -> Status:
    """Decode a serialized Status, such as `SeldonRequest.raw_status`. Raises ProtoError if malformed."""
    buf = as_buffer(raw)
    code, info, reason, flag = 0, "", "", 0
    for tag, a, b in fields(buf, 0, len(buf)):
        if tag == 1 << 3:
            code = to_int32(a)
        elif tag == 2 << 3 | 2:
            info = read_string(buf, a, b)
        elif tag == 3 << 3 | 2:
            reason = read_string(buf, a, b)
        elif tag == 4 << 3:
            flag = to_int32(a)
    return Status(code, info, reason, flag != 0)


def encode_meta(
    *,
    puid: str = "",
    tags: Mapping[str, Any] | None = None,
    routing: Mapping[str, int] | None = None,
    request_path: Mapping[str, str] | None = None,
    metrics: Sequence[Metric] = (),
) -> bytes:
    """A Meta's bytes. Tags take what `jsonvalue.encode_value` takes. Raises ProtoError for anything else."""
    parts = [string_field(1, puid)] if puid else []
    if tags:
        parts.append(jsonvalue.encode_map(2, tags, MAX_DEPTH - 1))
    for key, branch in (routing or {}).items():
        parts.append(len_field(3, string_field(1, key) + varint_field(2, branch)))
    for key, image in (request_path or {}).items():
        parts.append(len_field(4, string_field(1, key) + string_field(2, image)))
    for metric in metrics:
        labels = [
            len_field(4, string_field(1, key) + string_field(2, text))
            for key, text in (metric.tags or {}).items()
        ]
        value = b"\x1d" + np.float32(metric.value).tobytes()
        parts.append(
            len_field(
                5, b"".join((string_field(1, metric.key), varint_field(2, metric.type), value, *labels))
            )
        )
    return b"".join(parts)


def encode_status(status: Status) -> bytes:
    """A Status's bytes."""
    return b"".join(
        (
            varint_field(1, status.code),
            string_field(2, status.info),
            string_field(3, status.reason),
            varint_field(4, int(status.failed)),
        )
    )
