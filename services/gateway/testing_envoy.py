"""An Envoy for the tests that do without a supervisor."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.gateway import supervisor_envoy
from services.gateway.process import EnvoyAdmin
from services.gateway.supervisor_envoy import EnvoyOptions

# Runs between us and Envoy, in the child: be killed when the test is, even by SIGKILL, then become
# Envoy. An interpreter of its own because Python code between fork and exec is not safe beside gRPC's
# threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("the test ended before its Envoy began")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EnvoyProcess:
    """One run of Envoy."""

    def __init__(self, process: asyncio.subprocess.Process, admin: EnvoyAdmin) -> None:
        self._process = process
        self.admin = admin

    @classmethod
    async def start(
        cls,
        config: Mapping[str, Any],
        directory: Path,
        admin_socket: str,
        *,
        concurrency: int,
        log_level: str,
    ) -> EnvoyProcess:
        """Writes the bootstrap into the directory and starts Envoy on it. Its log goes to our stderr."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            "-c",
            _DIE_WITH_PARENT,
            str(os.getpid()),
            *supervisor_envoy.command(config, directory, EnvoyOptions(concurrency, log_level)),
            env=supervisor_envoy.environment(directory),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=2,
            # A Ctrl-C in the terminal is for the control plane, which then drains: Envoy must not see it.
            start_new_session=True,
        )
        return cls(process, EnvoyAdmin(admin_socket))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Ends Envoy: politely, then by force."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), timeout_s)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
