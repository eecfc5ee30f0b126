"""Warm-up requests out of a sample of a signature's inputs: a .npz with an array for each, or a .json.

{"sentence": [["a", "b"]], "label": [""]}: values by input, rows first; bytes are {"b64": "..."}. {"inputs": {...},
"signature_name": "..."} says the signature as well, as TensorFlow Serving's REST API has it.
"""

from __future__ import annotations

import base64
import binascii
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto.dtypes import DataType, element_type
from libs.proto.predict import ModelSpec, encode_predict_request
from libs.proto.wire import ProtoError, len_field
from libs.serving.errors import ServingError
from services.tf_serving.model.signature import (
    DEFAULT_SIGNATURE,
    Signature,
    TensorSpec,
    check_input_names,
    check_tensor,
    dtype_name,
)
from services.tf_serving.model.versions import ModelError


@dataclass(frozen=True, slots=True)
class Sample:
    """A file's values by input, and the signature that it names, "" for none."""

    file: Path
    values: Mapping[str, Any]
    signature: str = ""


def read(file: Path) -> Sample:
    """The sample in a file. Raises ModelError."""
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return Sample(file, {name: arrays[name] for name in arrays.files})
        if file.suffix != ".json":
            raise ModelError(f"{file}: expected a sample as .npz or .json")
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{file} is no sample: {error}") from error
    signature = ""
    if isinstance(values, dict) and isinstance(values.get("inputs"), dict):
        signature = str(values.get("signature_name", ""))
        values = values["inputs"]
    if not isinstance(values, dict):
        raise ModelError(f"{file}: expected an object with values by input, got {type(values).__name__}")
    return Sample(file, values, signature)


def choose(sample: Sample, signatures: Mapping[str, Signature], name: str) -> Signature:
    """The signature that the sample is for: the one that is named, the one that it names, the default, or the only one
    with its inputs. Raises ModelError."""
    wanted = name or sample.signature
    if wanted and wanted not in signatures:
        raise ModelError(f"the model has no signature {wanted!r}: it has {', '.join(sorted(signatures))}")
    if wanted:
        return signatures[wanted]
    fits = [s for s in signatures.values() if s.inputs.keys() == sample.values.keys()]
    default = signatures.get(DEFAULT_SIGNATURE)
    if default in fits or (default is not None and not fits):
        return default  # type: ignore[return-value]  # in fits, so not None
    if len(fits) == 1:
        return fits[0]
    raise ModelError(
        f"{sample.file}: {len(fits)} signatures have its inputs, {', '.join(sorted(sample.values))}: "
        f"say which by --signature; there are {', '.join(sorted(signatures))}"
    )


def records(model: str, sample: Sample, signature: Signature, rows: Sequence[int]) -> list[bytes]:
    """PredictionLogs of the sample as it is, and, where rows can share a run, of each number of rows: the sample's own,
    again and again.

    Raises:
        ModelError: the sample does not fit the signature. Says which input, and how.
    """
    try:
        check_input_names(signature, sample.values)
        arrays = {
            name: _array(name, sample.values[name], signature.inputs[name]) for name in sorted(sample.values)
        }
        for name, array in arrays.items():
            check_tensor(signature, name, signature.inputs[name].data_type, array.shape)
    except (ServingError, ProtoError) as error:
        raise ModelError(f"{sample.file}: {error}") from error
    wanted = [arrays]
    if signature.batchable:
        counts = {array.shape[0] for array in arrays.values()}
        if len(counts) != 1 or 0 in counts:
            raise ModelError(
                f"{sample.file}: expected as many rows, one or more, of each input, got {counts}"
            )
        own = counts.pop()
        wanted += [
            {name: np.resize(array, (count, *array.shape[1:])) for name, array in arrays.items()}
            for count in rows
            if count != own
        ]
    spec = ModelSpec(model, signature_name=signature.name)
    data_types = {name: signature.inputs[name].data_type for name in arrays}
    return [
        len_field(6, len_field(1, encode_predict_request(spec, inputs, data_types=data_types)))
        for inputs in wanted
    ]


def _array(name: str, value: Any, spec: TensorSpec) -> NDArray[Any]:
    wanted = element_type(spec.data_type).array
    try:
        if spec.data_type == DataType.DT_STRING:
            return _strings(value)
        array = np.asarray(value)
        if array.dtype.kind in "iu":  # as JSON has numbers: they may become any kind that holds them
            fits = bool((array.astype(wanted).astype(array.dtype) == array).all())
        else:
            fits = not array.size or np.can_cast(array.dtype, wanted, "same_kind")
        if fits:
            return array.astype(wanted)
    except (TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise ModelError(f"input {name}: expected {dtype_name(spec.data_type)}: {error}") from error
    raise ModelError(f"input {name}: expected {dtype_name(spec.data_type)}, got {array.dtype}")


def _strings(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        flat = [_bytes(element) for element in value.reshape(-1).tolist()]
        shape = value.shape
    else:
        shape = _shape(value)
        flat = [_bytes(element) for element in _leaves(value, len(shape))]
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape(shape)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    return (len(value), *(_shape(value[0]) if value else ()))


def _leaves(value: Any, depth: int) -> list[Any]:
    if not depth:
        return [value]
    if not isinstance(value, list):
        raise ValueError("its lists are of unequal depth")
    return [leaf for part in value for leaf in _leaves(part, depth - 1)]


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict) and value.keys() == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise ValueError(f"got {value!r}")
