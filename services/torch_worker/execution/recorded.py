"""Recorded requests, to warm a model up with what it will really get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from libs.proto.messages import SeldonMessage
from libs.proto.seldon import DataKind, decode_message
from libs.proto.wire import ProtoError
from services.torch_worker.config import ConfigError
from services.torch_worker.execution.arguments import NamedInputs

SUFFIXES = (".npy", ".npz", ".pb", ".json")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as a protocol would hand it to the engine.

    Attributes:
        name: of the file, for messages.
        payload: array, inputs by name, bytes, str or JSON value.
        tags: of a recorded SeldonMessage.
        bytes: size of the request on the wire.
    """

    name: str
    payload: Any
    tags: dict[str, Any]
    bytes: int


def read_recorded(path: Path) -> Recorded:
    """Read one recorded request.

    Args:
        path: .npy: the array, rows first; .npz: one array per input of the model, by name; .pb: a serialized
            SeldonMessage; .json: a SeldonMessage in protobuf's JSON form, as Seldon's REST calls have it.

    Raises:
        ConfigError: the file is missing, of another kind, or not what its name says.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: not a recorded request; expected one of {', '.join(SUFFIXES)}")
    try:
        size = path.stat().st_size
        if path.suffix == ".npy":
            return Recorded(path.name, np.load(path, allow_pickle=False), {}, size)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return Recorded(path.name, NamedInputs(arrays), {}, size)
        body = path.read_bytes()
        if path.suffix == ".json":
            body = json_format.Parse(body, SeldonMessage()).SerializeToString()
        message = decode_message(body)
    except (OSError, ValueError, EOFError, ProtoError, json_format.ParseError) as error:
        raise ConfigError(f"{path}: cannot be read as a recorded request: {error}") from error
    if message.kind is None or message.kind is DataKind.CUSTOM:
        raise ConfigError(f"{path}: the SeldonMessage carries no payload that a model takes")
    return Recorded(path.name, message.payload, message.tags, len(body))
