"""Signatures read straight from a SavedModel's bytes: no TensorFlow, so a wrong folder is told within
milliseconds.

Field numbers are those of tensorflow/core/protobuf/{saved_model,meta_graph}.proto:
SavedModel.meta_graphs 2; MetaGraphDef.meta_info_def 1, .signature_def 5 (a map), .asset_file_def 6; MetaInfoDef.tags 4;
AssetFileDef.filename 2;
SignatureDef.inputs 1, .outputs 2 (maps), .method_name 3, .defaults 4 (a map); TensorInfo.name 1, .dtype 2,
.tensor_shape 3; TensorShapeProto.dim 2, .unknown_rank 3; Dim.size 1. A map entry has its key in 1, its
value in 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from libs.proto.wire import LEN, VARINT, Buffer, ProtoError, fields, len_field, read_string, to_int64
from services.tf_serving.model.signature import Shape, Signature, TensorSpec
from services.tf_serving.model.versions import ModelError

SERVE_TAG = "serve"
"""Tag of the graph that is for serving, as tf.saved_model.save writes it and TensorFlow Serving looks for."""

_REF_DTYPES = 100
"""TensorFlow 1 marks a reference to a variable by adding this to the DataType of its value."""


@dataclass(frozen=True, slots=True)
class MetaGraph:
    """What serving needs to know of a graph before it runs.

    `signature_def_map` is a serialized tensorflow.serving.SignatureDefMap: the file's own bytes, unchanged.
    `assets` names the files that must lie in the folder assets/.
    """

    tags: tuple[str, ...]
    signatures: dict[str, Signature]
    signature_def_map: bytes
    assets: tuple[str, ...] = ()


def read(path: Path) -> MetaGraph | None:
    """The serving graph of the SavedModel in folder `path`; None when its graph file is the text form, which
    only TensorFlow itself reads.

    Raises:
        ModelError: the file is no SavedModel, is cut off, or holds no graph for serving. Says which file.
    """
    file = path / "saved_model.pb"
    if not file.exists():
        return None
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}") from error
    try:
        graphs = [_meta_graph(data, a, b) for a, b in _messages(data, 0, len(data), 2)]
    except ProtoError as error:
        raise ModelError(f"{file} is corrupt, or not a SavedModel: {error}") from error
    for graph in graphs:
        if set(graph.tags) == {SERVE_TAG}:
            return graph
    found = ", ".join("{" + ",".join(graph.tags) + "}" for graph in graphs) or "no graph at all"
    raise ModelError(f"{file} has no graph tagged {{{SERVE_TAG}}}; it has {found}")


def parse_meta_graph(data: bytes) -> MetaGraph:
    """The same from a serialized MetaGraphDef. Raises ProtoError."""
    return _meta_graph(data, 0, len(data))


def _meta_graph(buf: Buffer, start: int, end: int) -> MetaGraph:
    tags = [
        read_string(buf, a, b)
        for info_start, info_end in _messages(buf, start, end, 1)
        for a, b in _messages(buf, info_start, info_end, 4)
    ]
    entries = list(_messages(buf, start, end, 5))
    signatures = {name: _signature(name, buf, a, b) for name, a, b in _entries(buf, entries)}
    raw = b"".join(len_field(1, bytes(buf[a:b])) for a, b in entries)
    assets = [
        read_string(buf, a, b)
        for asset_start, asset_end in _messages(buf, start, end, 6)
        for a, b in _messages(buf, asset_start, asset_end, 2)
    ]
    return MetaGraph(tuple(tags), signatures, raw, tuple(dict.fromkeys(assets)))


def _signature(name: str, buf: Buffer, start: int, end: int) -> Signature:
    inputs = _specs(buf, list(_messages(buf, start, end, 1)))
    outputs = _specs(buf, list(_messages(buf, start, end, 2)))
    defaults = {key: bytes(buf[a:b]) for key, a, b in _entries(buf, list(_messages(buf, start, end, 4)))}
    methods = [read_string(buf, a, b) for a, b in _messages(buf, start, end, 3)]
    return Signature(name, inputs, outputs, methods[-1] if methods else "", defaults)


def _specs(buf: Buffer, entries: list[tuple[int, int]]) -> dict[str, TensorSpec]:
    return {key: _spec(buf, a, b) for key, a, b in sorted(_entries(buf, entries))}


def _spec(buf: Buffer, start: int, end: int) -> TensorSpec:
    tensor, data_type, shape = "", 0, None
    for tag, a, b in fields(buf, start, end):
        if tag == 1 << 3 | LEN:
            tensor = read_string(buf, a, b)
        elif tag == 2 << 3 | VARINT:
            data_type = a % _REF_DTYPES
        elif tag == 3 << 3 | LEN:
            shape = _shape(buf, a, b)
    return TensorSpec(tensor, data_type, shape)


def _shape(buf: Buffer, start: int, end: int) -> Shape | None:
    sizes: list[int] = []
    for tag, a, b in fields(buf, start, end):
        if tag == 3 << 3 | VARINT and a:
            return None
        if tag == 2 << 3 | LEN:
            size = 0
            for dim_tag, value, _ in fields(buf, a, b):
                if dim_tag == 1 << 3 | VARINT:
                    size = to_int64(value)
            sizes.append(size)
    return tuple(sizes)


def _messages(buf: Buffer, start: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Where the occurrences of length-delimited field `number` lie."""
    tag = number << 3 | LEN
    return ((a, b) for found, a, b in fields(buf, start, end) if found == tag)


def _entries(buf: Buffer, entries: list[tuple[int, int]]) -> list[tuple[str, int, int]]:
    """The (key, start, end of the value) of a map's entries; of equal keys the last counts."""
    values: dict[str, tuple[int, int]] = {}
    for start, end in entries:
        key, value = "", (start, start)
        for tag, a, b in fields(buf, start, end):
            if tag == 1 << 3 | LEN:
                key = read_string(buf, a, b)
            elif tag == 2 << 3 | LEN:
                value = (a, b)
        values[key] = value
    return [(key, *value) for key, value in values.items()]
