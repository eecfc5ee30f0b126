"""The small messages of inference.GRPCInferenceService, those that carry no tensors, without the generated classes."""

from __future__ import annotations

from collections.abc import Sequence

from libs.proto.wire import Buffer, as_buffer, fields, len_field, packed_varints, read_string, string_field

TensorDescription = tuple[str, str, Sequence[int]]
"""Name, datatype and shape, in which -1 is any size."""

_FIRST, _SECOND = 1 << 3 | 2, 2 << 3 | 2
_READY = 2 << 3


def decode_model_name(data: Buffer) -> tuple[str, str]:
    """Name and version in a ModelReadyRequest or ModelMetadataRequest. Raises ProtoError when it is malformed."""
    buf = as_buffer(data)
    name = version = ""
    for tag, a, b in fields(buf, 0, len(buf)):
        if tag == _FIRST:
            name = read_string(buf, a, b)
        elif tag == _SECOND:
            version = read_string(buf, a, b)
    return name, version


def decode_index_request(data: Buffer) -> bool:
    """Whether a RepositoryIndexRequest asks only for what is ready. Raises ProtoError when it is malformed."""
    buf = as_buffer(data)
    ready = False
    for tag, a, _ in fields(buf, 0, len(buf)):
        if tag == _READY:
            ready = a != 0
    return ready


def encode_index(models: Sequence[tuple[str, str, str, str]]) -> bytes:
    """A RepositoryIndexResponse of names, versions, states and reasons."""
    return b"".join(
        len_field(1, b"".join(string_field(number, text) for number, text in enumerate(model, 1)))
        for model in models
    )


def encode_flag(value: bool) -> bytes:
    """A ServerLiveResponse, ServerReadyResponse or ModelReadyResponse."""
    return b"\x08\x01" if value else b""


def encode_server_metadata(name: str, version: str, extensions: Sequence[str]) -> bytes:
    """A ServerMetadataResponse."""
    return b"".join(
        [string_field(1, name), string_field(2, version), *(string_field(3, text) for text in extensions)]
    )


def encode_model_metadata(
    name: str,
    versions: Sequence[str],
    platform: str,
    inputs: Sequence[TensorDescription],
    outputs: Sequence[TensorDescription],
) -> bytes:
    """A ModelMetadataResponse."""
    parts = [string_field(1, name), *(string_field(2, version) for version in versions)]
    parts.append(string_field(3, platform))
    for number, tensors in ((4, inputs), (5, outputs)):
        for tensor, datatype, shape in tensors:
            described = string_field(1, tensor) + string_field(2, datatype) + packed_varints(3, shape)
            parts.append(len_field(number, described))
    return b"".join(parts)
