from __future__ import annotations

import pytest

from libs.proto.dtypes import DataType
from libs.serving.errors import FailedPrecondition, InvalidArgument
from services.tf_serving.model.signature import (
    Signature,
    TensorSpec,
    check_input_names,
    check_tensor,
    choose_outputs,
    dtype_name,
    find,
    shape_text,
)

FLOAT, INT32, STRING = DataType.DT_FLOAT, DataType.DT_INT32, DataType.DT_STRING

SIGNATURE = Signature(
    "prediction",
    {"label": TensorSpec("label:0", STRING, (-1,)), "sentence": TensorSpec("sentence:0", STRING, (-1, 72))},
    {"output": TensorSpec("out:0", STRING, (-1, 3)), "score": TensorSpec("out:1", FLOAT, (-1, 3))},
)
ONE = Signature("one", {"x": TensorSpec("x:0", FLOAT, (-1, 1))}, {"y": TensorSpec("y:0", FLOAT, None)})


def test_the_empty_name_means_the_default_signature() -> None:
    assert find({"serving_default": ONE}, "") is ONE
    assert find({"serving_default": ONE, "prediction": SIGNATURE}, "prediction") is SIGNATURE


@pytest.mark.parametrize(("name", "shown"), [("", "serving_default"), ("predictions", "predictions")])
def test_an_unknown_signature_is_told_as_tensorflow_serving_tells_it(name: str, shown: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        find({"b": SIGNATURE, "a": ONE}, name)
    assert (
        caught.value.message
        == f'Serving signature key "{shown}" not found. Signatures of this model: {{a,b}}.'
    )


def test_inputs_must_be_those_of_the_signature() -> None:
    check_input_names(SIGNATURE, ["sentence", "label"])
    with pytest.raises(InvalidArgument) as caught:
        check_input_names(SIGNATURE, ["sentence", "lable", "y"])
    assert caught.value.message == (
        "input size does not match signature: 3!=2 len({lable,sentence,y}) != len({label,sentence}). "
        "Sent extra: {lable,y}. Missing but required: {label}."
    )


def test_an_input_of_the_wrong_name_is_found_although_the_number_is_right() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_input_names(SIGNATURE, ["sentence", "lable"])
    assert caught.value.message == (
        "Signature input alias: label(feed name: label:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {lable,sentence}, or default input alias set: "
    )


def test_inputs_with_a_default_may_be_left_out() -> None:
    lenient = Signature("s", SIGNATURE.inputs, SIGNATURE.outputs, defaults={"label": b""})
    check_input_names(lenient, ["sentence"])
    check_input_names(lenient, ["sentence", "label"])
    with pytest.raises(InvalidArgument) as caught:
        check_input_names(lenient, ["label"])
    assert caught.value.message == (
        "Signature input alias: sentence(feed name: sentence:0) not found in request and no default value "
        "provided. Inputs expected to be in the request {label}, or default input alias set: label"
    )
    with pytest.raises(InvalidArgument) as caught:
        check_input_names(lenient, ["sentence", "lable"])
    assert caught.value.message == (
        "Inputs contains invalid name. Used request inputs: sentence, request input: lable,sentence"
    )
    with pytest.raises(InvalidArgument, match=r"input size does not match signature: 3!=2 .* extra: \{y\}\."):
        check_input_names(lenient, ["sentence", "label", "y"])


def test_a_wrong_dtype_names_both_dtypes_and_the_input() -> None:
    check_tensor(SIGNATURE, "sentence", STRING, (3, 72))
    with pytest.raises(InvalidArgument) as caught:
        check_tensor(SIGNATURE, "sentence", INT32, (3, 72))
    assert caught.value.message == (
        'Expects arg[1] to be string but int32 is provided (input "sentence" of signature "prediction")'
    )


@pytest.mark.parametrize("shape", [(72,), (1, 71), (1, 72, 1), ()])
def test_a_wrong_shape_names_both_shapes_and_the_input(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_tensor(SIGNATURE, "sentence", STRING, shape)
    assert caught.value.message == (
        'input "sentence" of signature "prediction" has the wrong shape: '
        f"expected [?,72] but {shape_text(shape)} is given"
    )


def test_an_unknown_rank_accepts_everything_and_unknown_sizes_any_size() -> None:
    assert all(TensorSpec("", FLOAT, None).accepts(shape) for shape in [(), (0,), (2, 3)])
    assert all(TensorSpec("", FLOAT, (-1, 2)).accepts((rows, 2)) for rows in (0, 1, 1000))


def test_outputs_follow_the_filter() -> None:
    assert choose_outputs(SIGNATURE, []) == ("output", "score")
    assert choose_outputs(SIGNATURE, ["score"]) == ("score",)
    assert choose_outputs(SIGNATURE, ["score", "output"]) == ("score", "output")
    with pytest.raises(InvalidArgument) as caught:
        choose_outputs(SIGNATURE, ["score", "scores"])
    assert caught.value.message == (
        "output tensor alias not found in signature: scores Outputs expected to be in the set {output,score}."
    )
    with pytest.raises(InvalidArgument, match="duplicate output tensor alias: score"):
        choose_outputs(SIGNATURE, ["score", "score"])


def test_only_signatures_with_a_batch_dimension_everywhere_can_share_runs() -> None:
    def signature(inputs: list[tuple[int, ...] | None], outputs: list[tuple[int, ...] | None]) -> Signature:
        return Signature(
            "s",
            {str(i): TensorSpec("", FLOAT, shape) for i, shape in enumerate(inputs)},
            {str(i): TensorSpec("", FLOAT, shape) for i, shape in enumerate(outputs)},
        )

    assert signature([(-1, 2), (-1,)], [(-1,)]).batchable
    assert not signature([(-1, 2), ()], [(-1,)]).batchable
    assert not signature([(-1, 2)], [(1,)]).batchable
    assert not signature([(-1, 2)], [None]).batchable
    assert not signature([], [(-1,)]).batchable


def test_dtypes_have_tensorflows_names() -> None:
    assert [dtype_name(n) for n in (1, 7, 14, 19, 9, 0, 999)] == [
        "float",
        "string",
        "bfloat16",
        "half",
        "int64",
        "invalid",
        "dtype 999",
    ]
