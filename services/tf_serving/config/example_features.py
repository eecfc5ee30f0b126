"""A tf.Example that a graph can parse, from the graph's own operations that parse them: nothing is run."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import saved_model

_MOST_VALUES = 1 << 16
"""Of one feature; more would make a request of many rows too large to be worth it."""


@functools.lru_cache(4)
def read(path: Path) -> bytes | None:
    """A serialized tf.Example with zeros, or empty strings, for every feature of a fixed shape that the SavedModel in
    folder `path` parses; None if it parses none, or if its file cannot be read. Features of any length may be missing,
    so they are.
    """
    tf = tensorflow()
    from google.protobuf import message, text_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        if (path / "saved_model.pb").exists():
            model = SavedModel.FromString((path / "saved_model.pb").read_bytes())
        else:
            model = text_format.Parse((path / "saved_model.pbtxt").read_text(encoding="utf-8"), SavedModel())
    except (OSError, UnicodeDecodeError, message.DecodeError, text_format.ParseError):
        return None
    example = tf.train.Example()
    for meta_graph in model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) != {saved_model.SERVE_TAG}:
            continue
        graph = meta_graph.graph_def
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            for name, data_type, count in _dense_features(tf, nodes):
                if count <= _MOST_VALUES:
                    _fill(tf, example.features.feature[name], data_type, count)
    return bytes(example.SerializeToString()) if example.features.feature else None


def _dense_features(tf: Any, nodes: Iterable[Any]) -> Iterator[tuple[str, int, int]]:
    """Name, DataType and number of values of each."""
    by_name = {node.name: node for node in nodes}
    for node in by_name.values():
        if node.op not in ("ParseExample", "ParseExampleV2"):
            continue
        kinds = list(node.attr["Tdense"].list.type)
        shapes = list(node.attr["dense_shapes"].list.shape)
        keys = _dense_keys(tf, by_name, node, len(kinds))
        for key, kind, shape in zip(keys, kinds, shapes, strict=False):
            # A first size that is open is one of any length, of which 1 will do.
            yield key, kind, prod(max(dim.size, 1) for dim in shape.dim)


def _dense_keys(tf: Any, by_name: Mapping[str, Any], node: Any, count: int) -> list[str]:
    """The features' names, which are constants that the operation reads: inputs serialized, names, sparse keys, dense
    keys; of the first version each key is an input, of the second each list."""
    inputs = [name for name in node.input if not name.startswith("^")]
    if node.op == "ParseExample":
        sparse = node.attr["Nsparse"].i
        names = inputs[2 + sparse : 2 + sparse + count]
    else:
        names = inputs[3:4]
    keys: list[str] = []
    for name in names:
        constant = by_name.get(name.partition(":")[0])
        if constant is None or constant.op != "Const":
            return []
        keys += [key.decode() for key in tf.make_ndarray(constant.attr["value"].tensor).reshape(-1).tolist()]
    return keys


def _fill(tf: Any, feature: Any, data_type: int, count: int) -> None:
    if feature.WhichOneof("kind"):
        return
    if data_type == tf.string.as_datatype_enum:
        feature.bytes_list.value.extend([b""] * count)
    elif data_type == tf.int64.as_datatype_enum:
        feature.int64_list.value.extend([0] * count)
    else:
        feature.float_list.value.extend([0.0] * count)
