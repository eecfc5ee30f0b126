"""Decoding and encoding Seldon messages that look like the one before: `data.tensor` of one shape, again and
again.

Callers of a model mostly send the same message with other numbers. Two messages of equal length that agree in
every byte outside the packed `values` parse alike, so such a message needs no parsing: comparing its head and
tail with those of a message that was parsed is enough. The same holds for answers: one shape, one meta, the
same bytes before the values. Whatever does not match goes through `libs.proto.seldon`, which also makes the
patterns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from libs.proto.seldon import DataKind, SeldonRequest, decode_message, encode_message

_DOUBLE = np.dtype("<f8")
# Patterns kept, by message length (requests) or by shape and meta (answers). Callers with more forms than
# this, such as a puid in each message, are served without patterns.
_MAX_PATTERNS = 64
# Longer heads hold long names or metas, which seldom repeat.
_MAX_FRAME_BYTES = 1024
# An answer's head names its columns, a thousand where there are as many classes: 6 KB, which take 0.2 ms to encode.
_MAX_HEAD_BYTES = 64 << 10
# A pattern that does not match is replaced on every so many misses, so that unlike messages of one length do
# not make one each.
_MISSES_PER_REPLACEMENT = 16
_SCALARS = (str, int, float, bool, type(None))


@dataclass(slots=True)
class _Pattern:
    head: bytes
    tail: bytes
    count: int
    shape: tuple[int, ...]
    request: SeldonRequest
    misses: int = 0


class RequestDecoder:
    """`decode_message` that remembers. For one thread."""

    def __init__(self) -> None:
        self._patterns: dict[int, _Pattern] = {}

    def decode(self, body: bytes) -> SeldonRequest:
        """As `decode_message`. The tags are a dict of their own; the other parts may be shared between
        requests.

        Raises:
            ProtoError: the bytes are no SeldonMessage.
        """
        pattern = self._patterns.get(len(body))
        if pattern is None:
            request = decode_message(body)
            if request.kind is DataKind.TENSOR and len(self._patterns) < _MAX_PATTERNS:
                self._learn(body, request)
            return request
        if body.startswith(pattern.head) and body.endswith(pattern.tail):
            values = np.frombuffer(body, _DOUBLE, pattern.count, len(pattern.head)).reshape(pattern.shape)
            known = pattern.request
            return SeldonRequest(
                DataKind.TENSOR, values, known.names, known.puid, dict(known.tags), known.raw_meta
            )
        request = decode_message(body)
        pattern.misses += 1
        if pattern.misses % _MISSES_PER_REPLACEMENT == 0 and request.kind is DataKind.TENSOR:
            self._learn(body, request)
        return request

    def _learn(self, body: bytes, request: SeldonRequest) -> None:
        values = request.payload
        start = _address(values) - _address(np.frombuffer(body, np.uint8))
        end = start + values.nbytes
        if not (values.size and start >= 0 and end <= len(body) and values.flags.c_contiguous):
            return  # the values were copied out: they are not one packed run of bytes
        if len(body) - values.nbytes > _MAX_FRAME_BYTES or request.raw_status or request.more_meta:
            return
        if not all(isinstance(value, _SCALARS) for value in request.tags.values()):
            return  # a hook could change a tag's list, and the next request's with it
        self._patterns[len(body)] = _Pattern(
            bytes(body[:start]), bytes(body[end:]), values.size, values.shape, _without_payload(request)
        )


class AnswerEncoder:
    """`encode_message` for tensors, remembering what stands before the values. For one thread."""

    def __init__(self) -> None:
        self._heads: dict[tuple[tuple[int, ...], bytes, Sequence[str]], bytes] = {}
        self._replies: dict[tuple[tuple[int, ...], bytes, tuple[str, ...] | None], bytes] = {}

    def reply(
        self, array: np.ndarray[Any, Any], raw_meta: bytes, class_names: tuple[str, ...] | None
    ) -> bytes | None:
        """The answer with array to a request of that meta, if one like it was made by `encode_tensor` before and kept
        by `keep_reply`; None if not."""
        head = self._replies.get((array.shape, raw_meta, class_names))
        return None if head is None else head + array.astype(_DOUBLE, order="C").tobytes()

    def keep_reply(
        self,
        array: np.ndarray[Any, Any],
        raw_meta: bytes,
        class_names: tuple[str, ...] | None,
        names: tuple[str, ...],
        meta: bytes,
    ) -> None:
        """Let `reply` answer from now on, with the head that `encode_tensor` remembers for these names and meta."""
        head = self._heads.get((array.shape, meta, names))
        if head is not None:
            if len(self._replies) >= _MAX_PATTERNS:
                self._replies.clear()
            self._replies[array.shape, raw_meta, class_names] = head

    def encode_tensor(self, array: np.ndarray[Any, Any], names: tuple[str, ...], meta: bytes) -> bytes:
        """A SeldonMessage with array as data.tensor.

        Raises:
            ProtoError: as encode_message.
        """
        key = (array.shape, meta, names)
        head = self._heads.get(key)
        if head is not None:
            return head + array.astype(_DOUBLE, order="C").tobytes()
        message = encode_message(DataKind.TENSOR, array, names=names, meta=meta)
        values = np.asarray(array, _DOUBLE).tobytes()
        head = message[: len(message) - len(values)]
        if values and len(head) <= _MAX_HEAD_BYTES and head + values == message:
            if len(self._heads) >= _MAX_PATTERNS:
                self._heads.clear()
            self._heads[key] = head
        return message


def _address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _without_payload(request: SeldonRequest) -> SeldonRequest:
    return SeldonRequest(
        request.kind, None, request.names, request.puid, dict(request.tags), request.raw_meta
    )
