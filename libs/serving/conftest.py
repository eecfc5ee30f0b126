"""Servers shared by the tests of a module run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from libs.serving.direct.module import LIBRARY_VARIABLE
from libs.serving.testing import MAX_MESSAGE_BYTES, ServerProcess, aio_server, pyvoy_server


@pytest.fixture(scope="session")
def pyvoy() -> Iterator[ServerProcess]:
    """The test application under pyvoy."""
    with pyvoy_server({"max_message_bytes": MAX_MESSAGE_BYTES}) as server:
        yield server


@pytest.fixture(scope="session")
def asgi() -> Iterator[ServerProcess]:
    """The same without the exchange: every call comes by ASGI."""
    with pyvoy_server({"max_message_bytes": MAX_MESSAGE_BYTES}, env={LIBRARY_VARIABLE: ""}) as server:
        yield server


@pytest.fixture(scope="session")
def aio() -> Iterator[ServerProcess]:
    """The test application's handlers on grpc.aio."""
    with aio_server(MAX_MESSAGE_BYTES) as server:
        yield server
