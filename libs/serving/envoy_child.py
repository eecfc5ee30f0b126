"""The Envoy child of a server: its configuration, its start, and its admin interface.

pyvoy builds the configuration and the environment; what it leaves at a default that does not suit a server is
set here (see `configuration`). The process is spawned here rather than by pyvoy's own `PyvoyServer.start`,
which offers no say over signals, sessions, descriptors and the admin address.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyvoy import PyvoyServer
from pyvoy._server import get_envoy_environ, get_envoy_path  # type: ignore[attr-defined]

from libs.serving.direct.module import LIBRARY, LIBRARY_VARIABLE, http_filter

_PR_SET_PDEATHSIG = 1
_ADMIN_TIMEOUT_S = 5.0

# Envoy's level for the application's. What it says below "error" is about itself, such as which signal it
# caught.
_LOG_LEVELS = {"debug": "info", "critical": "critical"}


class StartError(Exception):
    """The server cannot start; the text says what to do about it."""


@dataclass(frozen=True)
class Limits:
    """What one server accepts from the network.

    Attributes:
        max_message_bytes: as the application's; sizes the buffers, so that no message within it is refused
            earlier.
        max_connections: connections at a time; more are closed at once.
        max_concurrent_streams: calls at a time per connection; a client queues the rest.
        request_timeout_s: how long the sending of one request may take.
    """

    max_message_bytes: int = 10 << 20
    max_connections: int = 4096
    max_concurrent_streams: int = 1024
    request_timeout_s: int = 60


def configuration(
    app: str, host: str, port: int, admin_path: Path, limits: Limits, http_port: int | None = None
) -> dict[str, Any]:
    """Envoy's bootstrap configuration for an application.

    Beyond pyvoy's own: the filter that hands unary calls over whole; the admin interface on a Unix socket; no
    SO_REUSEPORT, with which a second server would bind the same port in silence and take half of its calls; a
    request buffer of one message (Envoy answers 413 when its 1 MiB default overflows while Python is busy);
    bounds on connections, streams and slow senders; no `server` and `date` of Envoy's on top of the
    application's headers.

    Args:
        http_port: serves the same but for gRPC. One listener has both ports: pyvoy would run the application once
            for each listener.

    Raises:
        StartError: a part of the server is missing.
    """
    config: dict[str, Any] = PyvoyServer(app, address=host, port=port, lifespan=True).get_envoy_config()
    config["admin"] = {"address": {"pipe": {"path": str(admin_path), "mode": 0o600}}}
    (listener,) = config["static_resources"]["listeners"]
    listener["enable_reuse_port"] = False
    listener["per_connection_buffer_limit_bytes"] = limits.max_message_bytes + (1 << 20)
    manager = listener["filter_chains"][0]["filters"][-1]["typed_config"]
    manager["http2_protocol_options"] = {
        "max_concurrent_streams": limits.max_concurrent_streams,
        "initial_stream_window_size": 1 << 20,
        "initial_connection_window_size": 16 << 20,
    }
    try:
        manager["http_filters"].insert(0, http_filter())
    except FileNotFoundError as error:
        raise StartError(str(error)) from error
    if http_port is not None:
        address = {"socket_address": {"address": host, "port_value": http_port}}
        listener["additional_addresses"] = [{"address": address}]
        manager["http_filters"].insert(0, _no_grpc(http_port))
        forbidden = {"op": "EQ", "value": {"default_value": 403, "runtime_key": "no_grpc"}}
        told = {
            "filter": {"status_code_filter": {"comparison": forbidden}},
            "body": {
                "inline_string": f"port {http_port} serves plain HTTP: expected gRPC calls at the gRPC port"
            },
        }
        manager["local_reply_config"] = {"mappers": [told]}
    manager["request_timeout"] = f"{limits.request_timeout_s}s"
    manager["server_header_transformation"] = "PASS_THROUGH"
    manager["drain_timeout"] = "1s"
    config["overload_manager"] = {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors"
                    ".downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": limits.max_connections,
                },
            }
        ]
    }
    return config


def _no_grpc(port: int) -> dict[str, Any]:
    """Refuses gRPC calls on one port, so that a network policy for it is one for plain HTTP alone."""
    is_grpc = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    refused = {
        "permissions": [{"and_rules": {"rules": [{"destination_port": port}, {"header": is_grpc}]}}],
        "principals": [{"any": True}],
    }
    return {
        "name": "no_grpc",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "DENY", "policies": {"no_grpc": refused}},
        },
    }


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: this one, pyvoy's, then `extra`.

    Raises:
        StartError: no shared libpython can be found; pyvoy loads Python from it.
    """
    pyvoy = get_envoy_environ()
    if sys.platform == "linux" and "LD_PRELOAD" not in pyvoy:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise StartError(
            f"no shared libpython{version} was found for {sys.executable}: the server runs Python inside"
            f" Envoy and loads it from there. Install it (Debian: apt-get install libpython{version}), or use"
            " a Python that was built with --enable-shared (the python:*-slim images are)"
        )
    return {LIBRARY_VARIABLE: str(LIBRARY), **os.environ, **pyvoy, "PYTHONUNBUFFERED": "1", **extra}


def spawn(
    config: Mapping[str, Any], env: Mapping[str, str], control: socket.socket, log_level: str
) -> subprocess.Popen[bytes]:
    """Starts Envoy as a child that dies with this process and gets no signal of the terminal's.

    Its standard output is this process's standard error: what a model prints must not mix with what this
    process says.
    """
    args = [
        get_envoy_path(),
        "--config-yaml",
        json.dumps(config),
        "--disable-hot-restart",
        # One I/O thread: Python's lock admits one at a time anyway, and a second thread costs more than it
        # carries.
        "--concurrency",
        "1",
        # A drain tells every connection at once; the default spreads it over ten minutes.
        "--drain-strategy",
        "immediate",
        "--log-level",
        _LOG_LEVELS.get(log_level, "error"),
        "--log-format",
        "%Y-%m-%dT%T.%e envoy %l %v",
    ]
    return subprocess.Popen(
        args,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=(control.fileno(),),
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs between fork and exec: ask the kernel for SIGKILL when its parent dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork: after it little is safe
    parent = os.getpid()

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the request was in place
            os._exit(1)

    return before_exec


class Admin:
    """Envoy's admin interface on a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def request(self, method: str, target: str) -> bytes:
        """One request; answers the body.

        Raises:
            OSError: Envoy does not listen there, or answered an error.
        """
        connection = _UnixConnection(self._path, _ADMIN_TIMEOUT_S)
        try:
            connection.request(method, target)
            response = connection.getresponse()
            body = response.read()
        except http.client.HTTPException as error:
            raise OSError(f"Envoy's admin interface: {error!r}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise OSError(f"Envoy's admin interface answered {response.status} to {target}: {body[:200]!r}")
        return body

    def listener_port(self) -> int | None:
        """The port that the application is served on; None while there is none yet."""
        for status in json.loads(self.request("GET", "/listeners?format=json")).get("listener_statuses", []):
            if status["name"] == "listener":
                return int(status["local_address"]["socket_address"]["port_value"])
        return None

    def requests_in_flight(self) -> int:
        """Requests of the application's listener that have not been answered to the last byte."""
        text = self.request("GET", "/stats?filter=^http\\.ingress_http\\.downstream_rq_active$").decode()
        return int(text.rpartition(":")[2] or 0)

    def stop_accepting(self) -> None:
        """Closes the listener, and tells every connection with its next answer to go away."""
        self.request("POST", "/healthcheck/fail")
        self.request("POST", "/drain_listeners")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
