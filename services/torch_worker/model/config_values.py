"""What values of config.toml may be: each parser raises ValueError with what was expected."""

from __future__ import annotations

from pathlib import PurePosixPath

from services.torch_worker.model.toml_text import Parser

# KServe's names of element types, by numpy's and torch's.
_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "bytes": "BYTES",
    "str": "BYTES",
}


def number(low: int, high: int, what: str = "a whole number") -> Parser:
    """A whole number between bounds, both included."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected {what} from {low} to {high}")
        return value

    return parse


rows = number(1, 1_000_000, "a whole number of rows")


def flag(value: object) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def milliseconds(value: object) -> float:
    """From 0 to 10 s."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10_000:
        raise ValueError("expected milliseconds from 0 to 10000")
    return float(value)


def real(value: object) -> float:
    """Any number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a number")
    return float(value)


def sizes(value: object) -> tuple[int, ...]:
    """Rows, ascending, each once."""
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of rows, such as [8, 16, 32]")
    return tuple(sorted({rows(size) for size in value}))


def one_of(*choices: str) -> Parser:
    """One of some words."""

    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return str(value)

    return parse


def text(value: object) -> str:
    """A string that says something."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a string that is not empty")
    return value


def identifier(value: object) -> str:
    """The name of a Python parameter."""
    if not isinstance(value, str) or not value.isidentifier():
        raise ValueError('expected the name of a parameter, such as "mask"')
    return value


def class_path(value: object) -> str:
    """Name of a class, with its module's where that differs: "MyModel", "my_module.MyModel"."""
    if not isinstance(value, str) or not all(part.isidentifier() for part in value.split(".")):
        raise ValueError(
            'expected the name of a class, such as "MyModel" (in MyModel.py) or "my_module.MyModel"'
        )
    return value


def file(value: object) -> str:
    """A file in the folder, named from the folder."""
    path = PurePosixPath(value) if isinstance(value, str) else PurePosixPath()
    if path.is_absolute() or not path.name or ".." in path.parts:
        raise ValueError("expected the name of a file in the model folder")
    return str(value)


def files(value: object) -> tuple[str, ...]:
    """One file, or a list of them."""
    if isinstance(value, list) and value:
        return tuple(file(name) for name in value)
    return (file(value),)


def datatype(value: object) -> str:
    """KServe's name of an element type, from its own ("FP32") or numpy's ("float32")."""
    if isinstance(value, str):
        known = _DATATYPES.get(value.lower(), value.upper())
        if known in _DATATYPES.values():
            return known
    raise ValueError(f"expected one of {', '.join(_DATATYPES)}")


def shape(value: object) -> tuple[int, ...]:
    """Dimensions, -1 for any size."""
    if not isinstance(value, list) or not all(
        isinstance(size, int) and not isinstance(size, bool) and size >= -1 for size in value
    ):
        raise ValueError("expected a list of dimensions with -1 for any size, such as [-1, 138]")
    return tuple(value)
