"""Runs an ASGI application under pyvoy: start, readiness, drain, stop.

`run_server` starts Envoy with the application inside and watches it. The written sequence of a stop (SIGTERM,
SIGINT):

1. Unready: health answers NOT_SERVING, everything is still served. Lasts `drain_grace_s`, so that whoever
balances
   over the instances notices.
2. Stop accepting: the listener closes, and every connection is told with its next answer to go away (GOAWAY).
3. Drain: waits until no request is in flight, at most `drain_deadline_s`.
4. Stop: Envoy ends, and the application's `on_shutdown` runs. What has not ended after `STOP_S` is killed.

A SIGINT during that kills at once (Ctrl-C twice). If this process dies, however abruptly, the child dies with
it: the kernel sends it SIGKILL (PR_SET_PDEATHSIG, on Linux), and it kills itself when the control socket
    closes
(everywhere).
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from libs.serving.control import FD_VARIABLE, LOG_LEVEL_VARIABLE
from libs.serving.envoy_child import Admin, Limits, StartError, child_environment, configuration, spawn

log = logging.getLogger(__name__)

STOP_S = 15.0
_TICK_S = 0.02
_PROBE_TIMEOUT_S = 1.0


def run_server(
    app: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    env: Mapping[str, str] | None = None,
    drain_grace_s: float = 1.0,
    drain_deadline_s: float = 30.0,
    log_level: str = "info",
    limits: Limits | None = None,
    http_port: int | None = None,
) -> int:
    """Serves an application until a signal ends it. Call it on the main thread of a process that does nothing
    else.

    Prints `READY host:port` on standard output once health is SERVING and the port answers.

    Args:
        app: `module:attribute` of a `GrpcApp` (or another ASGI application with the same health and control).
        host: IP address to listen on, or a name of one.
        port: 0 takes a free one.
        env: added to the child's environment; how an application gets its configuration.
        drain_grace_s: how long everything is still served after readiness is taken back.
        drain_deadline_s: how long calls in flight may take to end after that.
        log_level: a Python level name, for the application's logging and for Envoy.
        limits: what is accepted from the network; its `max_message_bytes` should be the application's.
        http_port: serves plain HTTP too, and no gRPC.

    Returns:
        The exit status: 0 after a clean drain; 1 if the server could not start, ended by itself, or calls had
        to be cut off; 130 after a second Ctrl-C.
    """
    level = log_level.lower()
    directory: Path | None = None
    server = None
    try:
        directory = _private_directory()
        child_env = child_environment({**(env or {}), LOG_LEVEL_VARIABLE: level})
        host = _ip_address(host)
        for each in (port, http_port):
            if each is not None:
                _check_port(host, each)
        server = _Server(app, host, port, child_env, level, limits or Limits(), directory, http_port)
        return server.serve(drain_grace_s, drain_deadline_s)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        if server is not None:
            server.close()
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


class _Forced(Exception):  # noqa: N818 - control flow
    """A SIGINT came while the server was stopping."""


class _Server:
    """One child from its start to its end."""

    def __init__(
        self,
        app: str,
        host: str,
        port: int,
        env: Mapping[str, str],
        level: str,
        limits: Limits,
        directory: Path,
        http_port: int | None,
    ) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._http_port = http_port
        self._stopping = False
        self._forced = False
        self._serving = False
        self._failed: str | None = None
        self._received = b""
        admin_path = directory / "admin.sock"
        self._admin = Admin(admin_path)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._control, theirs = socket.socketpair()
        self._previous = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        self._previous_fd = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        with theirs:
            config = configuration(app, host, port, admin_path, limits, http_port)
            child_env = {**env, FD_VARIABLE: str(theirs.fileno())}
            self._child: subprocess.Popen[bytes] = spawn(config, child_env, theirs, level)

    def serve(self, drain_grace_s: float, drain_deadline_s: float) -> int:
        """From the start to the exit status."""
        try:
            if not self._start():
                return 0  # stopped before it served
            while self._child.poll() is None and not self._stopping:
                self._wait(None)
            if self._child.poll() is not None:
                log.error("the server process ended by itself (status %s)", self._child.returncode)
                return 1
            return self._stop(drain_grace_s, drain_deadline_s)
        except _Forced:
            return 130

    def close(self) -> None:
        """Leaves nothing behind: no child, no handler, no descriptor."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._control.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _start(self) -> bool:
        """Waits for readiness, however long a model takes to load; False if a signal came first."""
        announced = None
        while not self._stopping:
            if self._child.poll() is not None:
                self._wait(0.0)  # its last words
                if self._failed is not None:
                    raise StartError(self._failed)
                raise StartError(f"the application {self._app} did not start; the reason is above")
            if self._failed is not None:
                raise StartError(self._failed)
            # Envoy's main thread, and with it the admin interface, is blocked until the startup is over.
            if self._serving and announced is None:
                announced = self._listening()
            if announced is not None and self._answers(announced):
                print(f"READY {_authority(self._host, announced)}", flush=True)
                if self._http_port is not None:
                    log.info("plain HTTP alone at %s", _authority(self._host, self._http_port))
                return True
            self._wait(_TICK_S)
        return False

    def _stop(self, grace_s: float, deadline_s: float) -> int:
        log.info("draining: not ready any more, serving on for %.1f s", grace_s)
        self._control.sendall(b'{"command": "drain"}\n')
        self._wait_child(grace_s)
        status = 0
        try:
            self._admin.stop_accepting()
            deadline = time.monotonic() + deadline_s
            while (in_flight := self._admin.requests_in_flight()) and time.monotonic() < deadline:
                self._wait_child(_TICK_S)
            if in_flight:
                log.warning(
                    "%d requests were still in flight after %.1f s; cutting them off", in_flight, deadline_s
                )
                status = 1
            self._wait_child(_TICK_S)  # the last answer's bytes leave Envoy in the turn after its end
        except OSError as error:
            if self._child.poll() is None:
                log.warning("stopping without a drain: %s", error)
            status = 1
        if self._child.poll() is None:
            self._child.terminate()
            self._wait_child(STOP_S)
        if self._child.poll() is None:
            log.warning("the server did not stop within %.0f s; killing it", STOP_S)
            status = 1
        return status

    def _wait_child(self, seconds: float) -> None:
        """Waits for the child's end or so many seconds.

        Raises:
            _Forced: SIGINT came while the server was stopping.
        """
        end = time.monotonic() + seconds
        while self._child.poll() is None and (left := end - time.monotonic()) > 0:
            self._wait(min(left, _TICK_S))
            if self._forced:
                raise _Forced

    def _wait(self, seconds: float | None) -> None:
        """Sleeps until a signal or a word of the child's, at most so many seconds (None: one second)."""
        sources = [self._wake_read, self._control.fileno()]
        readable, _, _ = select.select(sources, [], [], 1.0 if seconds is None else seconds)
        if self._wake_read in readable:
            os.read(self._wake_read, 4096)
        if self._control.fileno() in readable:
            try:
                data = self._control.recv(65536)
            except OSError:
                data = b""
            if not data:  # the child is ending; poll tells
                time.sleep(_TICK_S)
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["event"] == "health":
                    self._serving = bool(event["serving"])
                elif event["event"] == "failed":
                    self._failed = str(event["message"])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._forced = self._stopping and number == signal.SIGINT
        self._stopping = True

    def _listening(self) -> int | None:
        try:
            return self._admin.listener_port()
        except OSError:
            return None

    def _answers(self, port: int) -> bool:
        """Whether readiness is seen from outside, through the whole path."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        connection = http.client.HTTPConnection(host, port, timeout=_PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _private_directory() -> Path:
    """A directory that only this user can enter, with a path short enough for a Unix socket's (108 bytes)."""
    for parent in (None, "/tmp"):
        try:
            path = tempfile.mkdtemp(prefix="serving-", dir=parent)
        except OSError as error:
            raise StartError(f"cannot make a temporary directory: {error}") from error
        if len(os.fsencode(path)) < 90:
            break
        os.rmdir(path)
    else:
        raise StartError("the path of the temporary directory is too long; set TMPDIR to a shorter one")
    return Path(path)


def _ip_address(host: str) -> str:
    """Envoy listens on addresses, not on names."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise StartError(f"cannot listen on {host!r}: {error.strerror or error}") from error


def _check_port(host: str, port: int) -> None:
    """Finds out before a model is loaded, and says it better than Envoy, that the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(f"cannot listen on {_authority(host, port)}: {reason}") from error
