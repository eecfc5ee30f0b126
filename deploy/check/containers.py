"""What the check needs of Docker, by its command line: a compose project, its containers, and what an image says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

COMMAND_TIMEOUT_S = 180.0
_POLL_S = 0.5


class EngineError(Exception):
    """A command of Docker's failed; the text has what it said."""


def docker(*arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Runs a docker command; returns its standard output. Raises EngineError."""
    return _run(["docker", *arguments], timeout_s)


def inspect(kind: str, name: str) -> Any:
    """The engine's description of an image or a container."""
    (found,) = json.loads(docker(kind, "inspect", name))
    return found


class Project:
    """A running compose project; leaves nothing of it behind.

    Args:
        name: of the project, which is in the names of all its containers.
        settings: variables of the compose file.
    """

    def __init__(self, name: str, file: Path, settings: Mapping[str, str]) -> None:
        self._command = [*_compose(), "-f", str(file), "-p", name]
        self._environment = {**os.environ, **settings}

    def __enter__(self) -> Project:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self._compose_command("logs", "--no-color", "--tail", "40"))
        self._compose_command("down", "--volumes", "--timeout", "5")

    def up(self, scale: Mapping[str, int]) -> None:
        """Starts the services, each as often as told."""
        scales = [word for service, count in scale.items() for word in ("--scale", f"{service}={count}")]
        self._compose_command("up", "--detach", *scales)

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers."""
        return self._compose_command("ps", "--quiet", service).split()

    def _compose_command(self, *arguments: str) -> str:
        return _run([*self._command, *arguments], COMMAND_TIMEOUT_S, self._environment)


def wait_healthy(containers: Sequence[str], deadline_s: float) -> None:
    """Returns when every container's HEALTHCHECK says so. Raises EngineError when one ends or it takes too long."""
    end = time.monotonic() + deadline_s
    for container in containers:
        while (state := inspect("container", container)["State"])["Health"]["Status"] != "healthy":
            if not state["Running"] or time.monotonic() > end:
                raise EngineError(f"container {container} did not become healthy: {json.dumps(state)}")
            time.sleep(_POLL_S)


def address(container: str) -> str:
    """The container's IP address, which this machine reaches over the network's bridge."""
    (network,) = inspect("container", container)["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


def _compose() -> list[str]:
    """Compose as the plugin or, before it, the program. Raises EngineError."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=60)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    if program := shutil.which("docker-compose"):
        return [program]
    raise EngineError(
        "neither `docker compose` nor docker-compose is there; Debian 12: apt-get install docker-compose"
    )


def _run(command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise EngineError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr}")
    return done.stdout
