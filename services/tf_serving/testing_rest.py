"""For tests: a plain HTTP client, as curl is one, and a server with a REST API beside the models that it serves."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing import Server

TIMEOUT_S = 30.0


def free_port() -> int:
    """A port that the kernel gives to nobody who asks for any."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def ask(
    address: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str, bytes]:
    """Status, content type and body of an answer."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read()
    finally:
        connection.close()


class RestClient:
    """The REST API at an address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a GET below /v1/models/."""
        return self._json(ask(self.address, "GET", f"/v1/models/{path}"))

    def post(self, path: str, document: object, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a POST below /v1/models/; `document` may be bytes."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self._json(ask(self.address, "POST", f"/v1/models/{path}", body, **headers))

    def error(self, path: str, document: object) -> tuple[int, str]:
        """Status and text of an error."""
        status, answer = self.post(path, document)
        assert list(answer) == ["error"], answer
        return status, answer["error"]

    def _json(self, answer: tuple[int, str, bytes]) -> tuple[int, Any]:
        status, kind, body = answer
        assert kind == "application/json", answer
        return status, json.loads(body)


class Served:
    """A server and the same models as TensorFlow loads them."""

    def __init__(self, server: Server, port: int, paths: dict[str, Path]) -> None:
        self.grpc_address = server.address
        self.rest = RestClient(f"127.0.0.1:{port}")
        self._paths = paths
        self._loaded: dict[str, Any] = {}

    def run(self, model: str, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
        """What tf.saved_model.load(...) gives: arrays by output."""
        tf = tensorflow()
        if model not in self._loaded:
            self._loaded[model] = tf.saved_model.load(str(self._paths[model]))
        answers = self._loaded[model].signatures[signature](**inputs)
        return {name: np.asarray(value.numpy()) for name, value in answers.items()}


@contextlib.contextmanager
def served_by_rest(
    file: Path, paths: dict[str, Path], more: Sequence[str], flags: Sequence[str]
) -> Iterator[Served]:
    """A server of the version folders `paths` by model, and of more entries of the configuration that is written to
    `file`."""
    entries = [*(f'name: "{name}" base_path: "{path.parent}"' for name, path in paths.items()), *more]
    models = "".join(f'config {{ {entry} model_platform: "tensorflow" }}' for entry in entries)
    file.write_text(f"model_config_list {{ {models} }}")
    port = free_port()
    with Server("--rest_api_port", str(port), "--model_config_file", str(file), *flags) as server:
        yield Served(server, port, paths)
