"""The peers' environments: one virtual environment for each lock of 3rdparty/peers, made once under var/."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peer_process import NotRunError

TIMEOUT_S = 1800.0


def lock_of(name: str) -> Path:
    """The hashed lock of a peer; seldon-core's is that of Pants' resolve, where it is a real client in tests too."""
    return Path("3rdparty/seldon/seldon.lock" if name == "seldon" else f"3rdparty/peers/{name}.lock")


def prepare(name: str, environments: Path) -> Path:
    """Makes the environment of a peer unless it is there with this lock, and returns its Python. Raises NotRunError."""
    environment = environments.absolute() / name
    lock = lock_of(name)
    mark = environment / "lock.sha256"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    python = environment / "bin" / "python"
    if not mark.exists() or mark.read_text() != digest:
        print(f"  {name}: installing {lock} into {environment} ...", file=sys.stderr, flush=True)
        shutil.rmtree(environment, ignore_errors=True)
        _run("python3.11", "-m", "venv", str(environment))
        _run(*_installer(python), "--require-hashes", *_find_links(python), "-r", str(lock))
        mark.write_text(digest)  # last: an environment without it is made anew
    return python


def _installer(python: Path) -> list[str]:
    """uv where it is, since it links what several environments share instead of copying gigabytes; else pip."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", "--no-config", "--python", str(python)]
    return [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _find_links(python: Path) -> list[str]:
    """Where PyTorch's CPU build comes from on this machine."""
    links = _run(str(python), "3rdparty/pip_config.py", "--find-links").splitlines()
    return [argument for link in links for argument in ("--find-links", link)]


def _run(*command: str) -> str:
    # Without what this program's own Python was started with: it would be taken for part of the new environment.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PEX", "__PEX", "PYTHON"))
    }
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotRunError(f"its environment could not be made: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise NotRunError(f"its environment could not be made: {lines[-1][:300]}")
    return done.stdout
