"""The command's inputs and answers: files and JSON to arrays and back."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dl_inference.calls import Answer


class InputError(ValueError):
    """An input cannot be read; the message says which and what is expected."""


def read(file: str) -> Any:
    """A file's value: JSON, an array (.npy), named arrays (.npz), text (.txt), and bytes of anything else."""
    try:
        if file == "-":
            return parse(sys.stdin.read())
        path = Path(file)
        match path.suffix.lower():
            case ".json":
                return parse(path.read_text())
            case ".npy":
                return np.load(path, allow_pickle=False)
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    return dict(arrays)
            case ".txt":
                return path.read_text()
            case _:
                return path.read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}") from None


def parse(text: str) -> Any:
    """A JSON text. Raises InputError with line and column."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}") from None


def named(value: Any) -> dict[str, Any]:
    """Named arrays of an object, each value an array or {"dtype": ..., "data": ...}. Raises InputError."""
    if not isinstance(value, Mapping):
        raise InputError('expected named inputs: a JSON object such as {"x": [[1.0]]}, or an .npz file')
    return {name: _array(name, one) for name, one in value.items()}


def payload(value: Any) -> Any:
    """What a PyTorch model is sent: arrays of lists and numbers; the rest as it is. Raises InputError."""
    if isinstance(value, list | int | float) and not isinstance(value, bool):
        return _array("the input", value)
    if isinstance(value, dict) and set(value) == {"dtype", "data"}:
        return _array("the input", value)
    if isinstance(value, dict | str | bytes | np.ndarray):
        return value
    raise InputError(f"expected an array, a string or an object, got {json.dumps(value)}")


def _array(name: str, value: Any) -> Any:
    dtype = None
    if isinstance(value, Mapping):
        if set(value) != {"dtype", "data"}:
            raise InputError(f'{name}: expected an array, or {{"dtype": "int64", "data": [...]}}')
        dtype, value = value["dtype"], value["data"]
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.array(value, dtype)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from None
    if array.dtype == object:
        raise InputError(f"{name}: expected numbers or strings, in lists of equal lengths")
    return array if dtype is not None or array.dtype != np.float64 else array.astype(np.float32)


def as_json(value: Any) -> str:
    """An answer as JSON; bytes that are no text as {"b64": ...}."""
    if isinstance(value, Answer):
        value = {"payload": value.payload, "tags": dict(value.tags)} if value.tags else value.payload
    return json.dumps(_plain(value), ensure_ascii=False)


def write_npz(path: Path, value: Any) -> None:
    """Write an answer's arrays, one without a name as `output`."""
    arrays = (
        value
        if isinstance(value, dict)
        else {"output": value.payload if isinstance(value, Answer) else value}
    )
    np.savez(path, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return value
