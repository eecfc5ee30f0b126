from __future__ import annotations

from typing import Any

import pytest

from libs.serving.errors import InvalidArgument
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.protocols.rest_examples import read
from services.tf_serving.testing_recipes import example


def parsed(document: dict[str, Any]) -> list[Any]:
    kind = tensorflow().train.Example
    return [kind.FromString(each) for each in read(document, kind)]


def test_features_have_the_kind_of_their_values() -> None:
    first, second = parsed(
        {
            "examples": [
                {"names": ["foo", {"b64": "aGVsbG8="}], "ratings": [8.0, 9.5], "age": 20, "none": []},
                {"names": "baz", "ratings": 6.0, "mix": [1, True, False], "huge": 1 << 70},
            ]
        }
    )
    assert first.features.feature["none"].WhichOneof("kind") is None
    del first.features.feature["none"]
    assert first == example(names=[b"foo", b"hello"], ratings=[8.0, 9.5], age=20)
    assert second == example(names=b"baz", ratings=6.0, mix=[1, 1, 0], huge=2.0**70)


def test_a_context_is_part_of_every_example() -> None:
    found = parsed({"context": {"query": "pizza"}, "examples": [{"n": 1}, {"n": 2}, {}]})
    assert found == [example(query=b"pizza", n=1), example(query=b"pizza", n=2), example(query=b"pizza")]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"context": [{"a": 1}], "examples": [{}]}, "Example must be JSON object but got JSON Array"),
        ({"examples": {"names": ["foo"]}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [[{"names": "foo"}]]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"names": [10, None]}]}, "Feature: names has element with unexpected JSON type: Null"),
        ({"examples": [{"names": [["a"]]}]}, "Feature: names has element with unexpected JSON type: Array"),
        ({"examples": [{"names": [{"a": 1}]}]}, "Feature: names has element with unexpected JSON type: Object"),
        ({"examples": [{"names": [10, 10.0]}]}, "Unexpected element type in feature: names expecting type: int64"),
        ({"examples": [{"names": [1.5, "a"]}]}, "Unexpected element type in feature: names expecting type: float"),
        ({"examples": [{"names": ["a", 1]}]}, "Unexpected element type in feature: names expecting type: bytes"),
        ({"examples": [{"n": 1 << 63}]}, "Feature: n has uint64_t element. Only int64_t is supported."),
        ({"examples": [{"n": 1 << 2000}]}, "JSON Parse error: Number too big to be stored in double."),
        ({"examples": [{"n": {"b64": "?"}}]}, "Unable to base64 decode"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_tensorflow_servings_words(document: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(document, tensorflow().train.Example)
    assert caught.value.message.endswith(text)
