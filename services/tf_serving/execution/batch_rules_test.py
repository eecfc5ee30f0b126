from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.tf_serving.execution.batch_rules import BatchRules, follow_rows, split


def strings(rows: list[list[bytes]]) -> np.ndarray[Any, Any]:
    array = np.empty((len(rows), len(rows[0])), object)
    array[:] = rows
    return array


def test_runs_are_filled_up_to_the_next_allowed_size_with_the_last_calls_first_row() -> None:
    rules = BatchRules(allowed_rows=(2, 4, 8))
    assert [rules.rows_of_run(rows) for rows in (1, 2, 3, 4, 5, 8, 9)] == [2, 2, 4, 4, 8, 8, 9]
    (x,) = rules.merge([[np.array([[1], [2]])], [np.array([[3], [4], [5]])]])
    assert x.ravel().tolist() == [1, 2, 3, 4, 5, 3, 3, 3]
    (x,) = rules.merge([[np.array([[7]])]])
    assert x.ravel().tolist() == [7, 7]
    assert BatchRules().rows_of_run(3) == 3


def test_unequal_lengths_are_filled_up_with_each_tensors_own_first_element() -> None:
    rules = BatchRules(pad_ragged=True)
    words = [strings([[b"a", b"b"]]), strings([[b"c"], [b"d"]])]
    image = [np.array([[[1.5]]], "f4"), np.array([[[2, 3], [4, 5]], [[6, 7], [8, 9]]], "f4")]
    calls = [list(call) for call in zip(words, image, strict=True)]
    assert rules.shape_key(calls[0]) == rules.shape_key(calls[1])
    assert BatchRules().shape_key(calls[0]) != BatchRules().shape_key(calls[1])
    joined_words, joined_image = rules.merge(calls)
    assert joined_words.tolist() == [[b"a", b"b"], [b"c", b"c"], [b"d", b"c"]]
    assert joined_image[0].tolist() == [[1.5, 1.5], [1.5, 1.5]] and joined_image.dtype == np.float32
    assert joined_image[1:].tolist() == image[1].tolist()


def test_what_has_no_element_joins_no_run() -> None:
    assert BatchRules(pad_ragged=True).shape_key([np.zeros((2, 0))]) is None
    assert BatchRules().shape_key([np.zeros((2, 0))]) is not None


def test_one_call_that_needs_no_filling_is_not_copied() -> None:
    x = np.ones((4, 3))
    assert BatchRules(allowed_rows=(4,), pad_ragged=True).merge([[x]])[0] is x


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.sampled_from([(), (1, 2, 4, 8, 16, 32), (25,)]),
    st.booleans(),
    st.sampled_from(["f4", "i8", "?", "O", "c16"]),
)
def test_each_call_gets_its_own_rows_back(
    counts: list[int], allowed: tuple[int, ...], ragged: bool, dtype: str
) -> None:
    rules = BatchRules(allowed, ragged)
    random = np.random.default_rng(sum(counts))
    calls = []
    for count in counts:
        shape = (count, int(random.integers(1, 4)) if ragged else 2)
        values = random.integers(0, 100, shape).astype(dtype)
        calls.append([values, np.arange(count)])
    merged = rules.merge(calls)
    assert follow_rows(merged, rules.rows_of_run(sum(counts)))
    assert all(a.dtype == b.dtype for a, b in zip(merged, calls[0], strict=True))
    for call, (values, numbers) in zip(calls, split(merged, counts), strict=True):
        assert numbers.tolist() == call[1].tolist()
        assert values[:, : call[0].shape[1]].tolist() == call[0].tolist()


@pytest.mark.parametrize(("shapes", "rows", "follow"), [([(3, 1), (3,)], 3, True), ([(3,), ()], 3, False)])
def test_outputs_follow_rows_or_do_not(shapes: list[tuple[int, ...]], rows: int, follow: bool) -> None:
    assert follow_rows([np.zeros(shape) for shape in shapes], rows) is follow
