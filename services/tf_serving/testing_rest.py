"""For tests: a plain HTTP client, as curl is one, and a port for the REST API."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
from typing import Any

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
