"""The Input message of Classify, Regress and MultiInference, as the tensor that their signatures read.

An Input holds tf.Examples. A model parses them itself (tf.io.parse_example), from serialized ones, so an
Example's bytes go from the request into the tensor without being looked at; and a common context goes before
each one's bytes, for merging messages is the same as joining their bytes.

Field numbers are those of tensorflow_serving/apis/input.proto: Input.example_list 1,
.example_list_with_context 2 (of the two the last counts); ExampleList.examples 1;
ExampleListWithContext.examples 1, .context 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto.wire import LEN, Buffer, Span, fields, merge
from libs.serving.errors import InvalidArgument

_LIST = 1 << 3 | LEN
_LIST_WITH_CONTEXT = 2 << 3 | LEN
_EXAMPLES = 1 << 3 | LEN
_CONTEXT = 2 << 3 | LEN


def examples(buf: Buffer, spans: Sequence[Span]) -> NDArray[Any]:
    """Serialized tf.Examples, objects (n,), of the Input message that lies at `spans` of `buf`.

    Raises:
        InvalidArgument: there is no example. ProtoError: the bytes are no Input.
    """
    kind, lists = 0, list[Span]()
    if spans:
        buf, start, end = merge(buf, spans)
        for tag, a, b in fields(buf, start, end):
            if tag in (_LIST, _LIST_WITH_CONTEXT):
                if tag != kind:
                    kind, lists = tag, []
                lists.append((a, b))
    found: list[Buffer] = []
    if lists:
        buf, start, end = merge(buf, lists)
        rest = fields(buf, start, end, _EXAMPLES, found)
        contexts = [(a, b) for tag, a, b in rest if tag == _CONTEXT] if kind == _LIST_WITH_CONTEXT else []
        if contexts:
            joined, start, end = merge(buf, contexts)
            context = bytes(joined[start:end])
            found = [context + example for example in found]
    return as_tensor(found)


def as_tensor(serialized: Sequence[Buffer]) -> NDArray[Any]:
    """Serialized tf.Examples as the string tensor (n,) to feed. Raises InvalidArgument when there are none."""
    if not serialized:
        raise InvalidArgument("Input is empty.")
    tensor = np.empty(len(serialized), object)
    tensor[:] = [bytes(example) for example in serialized]
    return tensor
