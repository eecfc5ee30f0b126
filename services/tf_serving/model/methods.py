"""What a signature must look like to be classified or regressed with, and what its outputs must be.

Names, checks and texts follow TensorFlow Serving's (servables/tensorflow/{classifier,regressor}.cc): callers'
alerts match on them. Its texts end in a dump of the whole signature; ours end in the names of its inputs and
outputs.

A signature also names the method that it was made for. TensorFlow Serving looks at that only where
`--enable_signature_method_name_check` is on, because signatures written by TensorFlow 2 all say predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto.dtypes import DataType
from libs.serving.errors import Internal, InvalidArgument
from services.tf_serving.model.signature import DEFAULT_SIGNATURE, Signature, shape_text

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

INPUTS = "inputs"
"""The one input of a signature to classify or regress with: serialized tf.Examples."""
CLASSES = "classes"
SCORES = "scores"
OUTPUTS = "outputs"


@dataclass(frozen=True, slots=True)
class Classified:
    """What Classify answers: string labels (n, k), float32 scores (n, k), or only one of the two."""

    classes: NDArray[Any] | None
    scores: NDArray[Any] | None


def find_for_examples(signatures: Mapping[str, Signature], name: str) -> Signature:
    """The signature called `name` for Classify or Regress; the empty name means the default one.

    Raises:
        InvalidArgument: there is none.
    """
    wanted = name or DEFAULT_SIGNATURE
    if wanted not in signatures:
        raise InvalidArgument(f"No signature was found with the name: {wanted}")
    return signatures[wanted]


def check_predict(signature: Signature) -> None:
    """Whether a signature may be predicted with, by the method that it names. Raises Internal."""
    if signature.method_name not in (PREDICT, CLASSIFY, REGRESS):
        raise Internal(
            f"Expected prediction signature method_name to be one of {{{PREDICT}, {CLASSIFY}, {REGRESS}}}. "
            f"Was: {signature.method_name}"
        )


def classify_outputs(signature: Signature, *, check_method_name: bool = False) -> tuple[str, ...]:
    """The outputs that Classify reads: classes, scores or both.

    Raises:
        InvalidArgument: the signature is none to classify with.
    """
    if check_method_name and signature.method_name != CLASSIFY:
        raise InvalidArgument(
            f"Expected classification signature method_name to be {CLASSIFY}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise InvalidArgument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise InvalidArgument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if INPUTS not in signature.inputs:
        raise InvalidArgument(f"No classification inputs found in SignatureDef: {_brief(signature)}")
    found = tuple(name for name in (CLASSES, SCORES) if name in signature.outputs)
    if not found:
        raise InvalidArgument(
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". '
            f"Signature was: {_brief(signature)}"
        )
    return found


def regress_outputs(signature: Signature, *, check_method_name: bool = False) -> tuple[str, ...]:
    """The output that Regress reads.

    Raises:
        InvalidArgument: the signature is none to regress with.
    """
    if check_method_name and signature.method_name != REGRESS:
        raise InvalidArgument(
            f"Expected regression signature method_name to be {REGRESS}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise InvalidArgument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise InvalidArgument("Expected one output Tensor.")
    if INPUTS not in signature.inputs:
        raise InvalidArgument(f"No regression inputs found in SignatureDef: {_brief(signature)}")
    if OUTPUTS not in signature.outputs:
        raise InvalidArgument(f"No regression outputs found in SignatureDef: {_brief(signature)}")
    return (OUTPUTS,)


def classified(signature: Signature, count: int, results: Mapping[str, NDArray[Any]]) -> Classified:
    """The checked answer of a classification of `count` examples; `results` by output name.

    Raises:
        InvalidArgument: an output's rank, dtype or size is not what an answer can be made of.
    """
    classes, scores = results.get(CLASSES), results.get(SCORES)
    for name, array, wanted in (
        (CLASSES, classes, DataType.DT_STRING),
        (SCORES, scores, DataType.DT_FLOAT),
    ):
        if array is None:
            continue
        if array.ndim != 2:
            raise InvalidArgument(
                f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(array.shape)}"
            )
        _check_dtype(f"Expected {name} Tensor of {wanted.name}. Got: ", signature, name, wanted)
        if len(array) != count:
            raise InvalidArgument(f"Expected {name} output batch size of {count}. Got: {len(array)}")
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise InvalidArgument(
            "Tensors class and score should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    return Classified(classes, scores)


def regressed(signature: Signature, count: int, results: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The checked answer of a regression of `count` examples: float32 (count,).

    Raises:
        InvalidArgument: the output's rank, dtype or size is not what an answer can be made of.
    """
    output = results[OUTPUTS]
    if output.ndim != 1 and not (output.ndim == 2 and output.shape[1] == 1):
        raise InvalidArgument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            f"but got {shape_text(output.shape)}"
        )
    if len(output) != count:
        raise InvalidArgument(f"Input batch size did not match output batch size: {count} vs. {len(output)}")
    _check_dtype("Expected output Tensor of DT_FLOAT.  Got: ", signature, OUTPUTS, DataType.DT_FLOAT)
    return output.reshape(-1)


def _check_dtype(text: str, signature: Signature, name: str, wanted: DataType) -> None:
    found = signature.outputs[name].data_type
    if found != wanted:
        raise InvalidArgument(text + DataType(found).name)


def _brief(signature: Signature) -> str:
    return f"inputs {{{','.join(signature.inputs)}}} outputs {{{','.join(signature.outputs)}}}"
