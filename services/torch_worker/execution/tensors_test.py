from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.torch_worker.execution.tensors import (
    NotSplittableError,
    cut_rows,
    join,
    listed,
    pad_rows,
    plain,
    plain_parts,
    split,
    to_numpy,
)

Pair = namedtuple("Pair", ["a", "b"])


class Answer(OrderedDict[str, Any]):
    """Like the outputs of transformers: a dict whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


row_counts = st.lists(st.integers(0, 5), min_size=1, max_size=6)
dtypes = st.sampled_from([np.float64, np.float32, np.int64, np.int32, np.bool_, np.uint8])


@settings(deadline=None, max_examples=60)
@given(row_counts, st.lists(st.integers(1, 3), max_size=2), dtypes, st.booleans())
def test_join_then_split_gives_the_inputs_back(
    rows: list[int], trailing: list[int], dtype: type, tensors: bool
) -> None:
    rng = np.random.default_rng(0)
    inputs: list[Any] = [rng.integers(0, 2, (n, *trailing)).astype(dtype) for n in rows]
    joined = join([torch.from_numpy(a) for a in inputs] if tensors else inputs)
    assert joined.shape == (sum(rows), *trailing)
    for part, expected in zip(split(joined, rows), inputs, strict=True):
        np.testing.assert_array_equal(part.numpy(), expected)
        assert part.numpy().dtype == expected.dtype
    for part, expected in zip(split(joined.numpy(), rows), inputs, strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("count", [1, 3])
def test_join_of_arrays_never_shares_memory(count: int) -> None:
    source = np.frombuffer(np.arange(4.0).tobytes()).reshape(2, 2)
    assert not source.flags.writeable
    joined = join([source] * count)
    joined.zero_()
    assert source.tolist() == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize("count", [1, 2])
def test_join_converts_while_copying(count: int) -> None:
    unaligned = np.frombuffer(b"x" + np.arange(3.0).tobytes(), dtype=np.float64, offset=1, count=3)
    joined = join([unaligned] * count, np.dtype(np.float32))
    assert joined.dtype is torch.float32
    assert joined.tolist() == [0.0, 1.0, 2.0] * count


def test_join_refuses_what_torch_has_no_type_for() -> None:
    with pytest.raises(TypeError):
        join([np.array([["a"]])])


def test_split_keeps_the_structure() -> None:
    t = torch.arange(6).reshape(3, 2)
    assert [p.tolist() for p in split([t, t + 1], [1, 2])[0]] == [[[0, 1]], [[1, 2]]]
    assert isinstance(split((t,), [1, 2])[1], tuple)
    second = split({"x": t, "y": {"z": t}}, [1, 2])[1]
    assert second["y"]["z"].tolist() == [[2, 3], [4, 5]]
    pair = split(Pair(t, t), [2, 1])[1]
    assert isinstance(pair, Pair) and pair.b.tolist() == [[4, 5]]
    answer = split(Answer(logits=t), [2, 1])[1]
    assert isinstance(answer, Answer) and answer.logits.tolist() == [[4, 5]]


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, 3),
        torch.tensor(1.0),
        3,
        None,
        "text",
        [],
        {},
        [torch.zeros(3, 1), 1.0],
        {"a": torch.zeros(4)},
    ],
)
def test_split_refuses_what_has_no_row_for_each(output: Any) -> None:
    with pytest.raises(NotSplittableError):
        split(output, [1, 2])
    with pytest.raises(NotSplittableError):
        plain_parts(output, [1, 2])


outputs = st.recursive(
    st.tuples(st.integers(1, 3), st.sampled_from([torch.float32, torch.float64, torch.int64])),
    lambda inner: st.lists(inner, min_size=1, max_size=3)
    | st.dictionaries(st.text(max_size=2), inner, min_size=1, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=80)
@given(outputs, row_counts)
def test_parts_of_a_batch_are_what_single_outputs_would_be(spec: Any, rows: list[int]) -> None:
    total = sum(rows)

    def build(node: Any, start: int, stop: int) -> Any:
        if isinstance(node, list):
            return [build(child, start, stop) for child in node]
        if isinstance(node, dict):
            return {key: build(child, start, stop) for key, child in node.items()}
        width, dtype = node
        return torch.arange(total * width, dtype=dtype).reshape(total, width)[start:stop]

    start = 0
    for part, n in zip(plain_parts(build(spec, 0, total), rows), rows, strict=True):
        alone = plain(build(spec, start, start + n))
        assert type(part) is type(alone)
        assert listed(part) == listed(alone)
        if isinstance(part, np.ndarray):
            assert part.shape == alone.shape and part.dtype == alone.dtype
        start += n


def test_plain() -> None:
    assert plain(torch.ones(2, 1)).shape == (2, 1)
    heads = plain([torch.zeros(3, 1), torch.ones(3, 1)])
    assert heads.shape == (2, 3, 1) and heads.dtype == np.float32
    unequal = plain((torch.zeros(1), torch.zeros(2)))
    assert [part.dtype for part in unequal] == [np.float32] * 2 and listed(unequal) == [[0.0], [0.0, 0.0]]
    named = plain({"a": torch.ones(1), "b": (np.float32(2), "t")})
    assert named["a"].dtype == np.float32 and listed(named) == {"a": [1.0], "b": [2.0, "t"]}
    assert plain("text") == "text" and plain(b"x") == b"x" and plain(None) is None
    assert plain(torch.ones(1, dtype=torch.bfloat16, requires_grad=True)).dtype == np.float32
    assert to_numpy([torch.zeros(1), 3])[1] == 3


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_rows_are_filled_up_with_the_last_row_and_cut_again(kind: Any) -> None:
    inputs = [kind([[1.0, 2.0]]), kind([[3.0, 4.0], [5.0, 6.0]])]
    padded = join(pad_rows(inputs, 5))
    assert padded.tolist() == [[1, 2], [3, 4], [5, 6], [5, 6], [5, 6]]
    assert len(pad_rows(inputs, 3)) == 2 and join(pad_rows([inputs[0][:0]], 2)).tolist() == [[0, 0], [0, 0]]
    assert join(pad_rows([inputs[0], inputs[0][:0]], 2)).tolist() == [[1, 2], [1, 2]]
    cut = cut_rows({"a": padded, "b": [padded * 2]}, 5, 3)
    assert cut["a"].tolist() == [[1, 2], [3, 4], [5, 6]] and cut["b"][0].tolist() == [
        [2, 4],
        [6, 8],
        [10, 12],
    ]
    with pytest.raises(NotSplittableError):
        cut_rows(padded.sum(), 5, 3)
    assert cut_rows(padded, 5, 5) is padded


def test_inputs_with_names_are_joined_and_filled_up_name_by_name() -> None:
    one = {"ids": np.array([[1], [2]]), "mask": torch.tensor([True, False])}
    two = {"ids": np.array([[3]]), "mask": torch.tensor([True])}
    joined = join(pad_rows([one, two], 4))
    assert joined["ids"].tolist() == [[1], [2], [3], [3]] and joined["mask"].tolist() == [
        True,
        False,
        True,
        True,
    ]


@dataclass
class Detection:
    boxes: torch.Tensor
    labels: list[str]


def test_dataclasses_and_lists_of_text_have_rows_too() -> None:
    output = Detection(torch.arange(6.0).reshape(3, 2), ["a", "b", "c"])
    first, second = split(output, [1, 2])
    assert isinstance(second, Detection)
    assert first.labels == ["a"] and second.labels == ["b", "c"] and second.boxes.tolist() == [[2, 3], [4, 5]]
    assert listed(plain(first)) == {"boxes": [[0.0, 1.0]], "labels": ["a"]}
    assert listed(plain_parts(output, [1, 2])) == listed([plain(first), plain(second)])
    with pytest.raises(NotSplittableError, match="3 rows with a list of 2 values"):
        split(["a", "b"], [1, 2])
