"""Whether a version's warm-up requests fit its signatures; nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from libs.proto.wire import ProtoError
from libs.serving.errors import ServingError
from services.tf_serving.execution.example_input import examples
from services.tf_serving.execution.tensors import array_of
from services.tf_serving.model import methods, warmup
from services.tf_serving.model.signature import (
    Signature,
    check_input_names,
    check_tensor,
    choose_outputs,
    find,
)
from services.tf_serving.model.versions import ModelError
from services.tf_serving.serving.warm_up import MAX_RECORDS

_KINDS = ("predict_log", "classify_log", "regress_log", "multi_inference_log")


def problems(file: Path, signatures: Mapping[str, Signature], most_rows: int | None) -> tuple[int, list[str]]:
    """The number of a file's records, and what is wrong with them: records of one problem share a line.

    Args:
        most_rows: of a request; None for any number.
    """
    try:
        records = warmup.read(file)
    except ModelError as error:
        return 0, [f"{error}; expected a TFRecord file of tensorflow.serving.PredictionLog"]
    found: dict[str, list[int]] = {}
    for place, record in enumerate(records, 1):
        for problem in _record_problems(record, signatures, most_rows):
            found.setdefault(problem, []).append(place)
    told = [f"{_records(places)}: {problem}" for problem, places in found.items()]
    if len(records) > MAX_RECORDS:
        told.append(f"{len(records)} records: expected at most {MAX_RECORDS}")
    if not records:
        told.append("it holds no record: remove it, or write it by tf-serving config")
    return len(records), told


def _records(places: Sequence[int]) -> str:
    if len(places) == 1:
        return f"record {places[0]}"
    shown = ", ".join(map(str, places[:8]))
    return f"records {shown}{f' and {len(places) - 8} more' if len(places) > 8 else ''}"


def _record_problems(
    record: bytes, signatures: Mapping[str, Signature], most_rows: int | None
) -> Iterator[str]:
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    try:
        log = PredictionLog.FromString(record)
    except DecodeError as error:
        yield f"not a tensorflow.serving.PredictionLog: {error}"
        return
    kind = log.WhichOneof("log_type")
    if kind not in _KINDS:
        yield f"a {kind or 'log of no type'}: expected one of {', '.join(_KINDS)}"
        return
    request = getattr(log, kind).request
    if kind == "predict_log":
        yield from _predict(request, signatures, most_rows)
    elif kind == "multi_inference_log":
        yield from _multi_inference(request, signatures)
    else:
        yield from _examples(request.input)
        yield from _by_examples(kind.removesuffix("_log"), request.model_spec.signature_name, signatures)


def _predict(request: Any, signatures: Mapping[str, Signature], most_rows: int | None) -> Iterator[str]:
    try:
        signature = find(signatures, request.model_spec.signature_name)
    except ServingError as error:
        yield str(error)
        return
    try:
        check_input_names(signature, request.inputs)
    except ServingError as error:
        yield str(error)
    try:
        choose_outputs(signature, request.output_filter)
    except ServingError as error:
        yield str(error)
    for name in sorted(signature.inputs.keys() & set(request.inputs)):
        try:
            data_type, shape, _ = array_of(name, request.inputs[name])
            check_tensor(signature, name, data_type, shape)
        except ServingError as error:
            yield str(error)
            continue
        if most_rows is not None and signature.batchable and shape[0] > most_rows:
            yield f'input "{name}" has {shape[0]} rows: max_batch_size is {most_rows}'


def _multi_inference(request: Any, signatures: Mapping[str, Signature]) -> Iterator[str]:
    yield from _examples(request.input)
    if not request.tasks:
        yield "it has no task: expected tasks with a model_spec and a method_name"
    for task in request.tasks:
        method = task.method_name.rpartition("/")[2]
        if method not in ("classify", "regress"):
            wanted = f"{methods.CLASSIFY} or {methods.REGRESS}"
            yield f"a task's method_name is {task.method_name!r}: expected {wanted}"
        else:
            yield from _by_examples(method, task.model_spec.signature_name, signatures)


def _by_examples(method: str, name: str, signatures: Mapping[str, Signature]) -> Iterator[str]:
    outputs = methods.classify_outputs if method == "classify" else methods.regress_outputs
    try:
        outputs(methods.find_for_examples(signatures, name))
    except ServingError as error:
        yield str(error)


def _examples(message: Any) -> Iterator[str]:
    from google.protobuf.message import DecodeError
    from tensorflow.core.example.example_pb2 import Example

    serialized = message.SerializeToString()
    try:
        found = examples(serialized, [(0, len(serialized))])
    except (ServingError, ProtoError) as error:
        yield str(error)
        return
    for place, example in enumerate(found, 1):
        try:
            Example.FromString(example)
        except DecodeError as error:
            yield f"example {place} is no tf.Example: {error}"
