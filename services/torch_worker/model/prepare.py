"""`torch-worker prepare`: install what a folder's requirements.txt asks for, into the folder, with pip.

The worker's own packages (torch, numpy ...) stay as they are: pip works out, with the versions of all of them as
constraints, what has to be added, and that alone is installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from services.torch_worker.config import ConfigError
from services.torch_worker.model.folder import REQUIREMENTS_FILE
from services.torch_worker.model.namespace import PACKAGES
from services.torch_worker.model.requirements import Lack, add_packages, is_provided, lacking

# Lines of requirements.txt that say where packages come from, which holds for the second run of pip too.
_SOURCES = re.compile(
    r"\s*(-i|--index-url|--extra-index-url|-f|--find-links|--no-index|--trusted-host|--pre)\b"
)


def prepare(folder: Path) -> list[str]:
    """Install into folder/.packages; what was installed there before goes. Returns what was installed, `name==version`.

    Args:
        folder: a model folder; without requirements.txt there is nothing to do. pip reads its own configuration and
            environment, for indexes and proxies.

    Raises:
        ConfigError: pip fails (its output says why), or something is lacking even so.
    """
    folder = folder.absolute()
    if not (folder / REQUIREMENTS_FILE).is_file():
        return []
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(
            "this Python has no pip, which installs what a folder requires: python -m ensurepip"
        )
    packages = folder / PACKAGES
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".prepare-") as work:
            requirements = _own_requirements(folder / REQUIREMENTS_FILE, Path(work))
            constraints = Path(work, "constraints.txt")
            constraints.write_text("".join(f"{name}=={version}\n" for name, version in _installed(folder)))
            wanted = _resolve(requirements, constraints, Path(work, "report.json"))
            added = Path(work, "packages")
            added.mkdir()
            if wanted:
                chosen = Path(work, "chosen.txt")
                sources = [line for line in requirements.read_text().splitlines() if _SOURCES.match(line)]
                chosen.write_text("\n".join([*sources, *map(_line, wanted)]) + "\n")
                _run(["install", "--no-deps", "--target", str(added), "-r", str(chosen)], requirements)
            former = Path(work, "former")
            if packages.exists():
                packages.rename(former)
            if wanted:
                added.rename(packages)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be prepared: {error}") from error
    importlib.invalidate_caches()
    add_packages(folder)
    lacks: list[Lack] = lacking(folder)
    if lacks:
        raise ConfigError(f"{folder / REQUIREMENTS_FILE}: still lacking: {', '.join(map(str, lacks))}")
    return [f"{item['metadata']['name']}=={item['metadata']['version']}" for item in wanted]


def _own_requirements(file: Path, work: Path) -> Path:
    """The file without what the worker itself provides; a copy beside the file, for its relative paths, if need be."""
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not is_provided(line)]
    if len(kept) == len(lines):
        return file
    copy = work / file.name
    # Relative names in a requirements file are from the file's own folder.
    kept = [
        re.sub(r"^(\s*(?:-[rc]|--requirement|--constraint)[\s=]+)(?!/)", rf"\1{file.parent}/", line)
        for line in kept
    ]
    copy.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return copy


def _installed(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and version of each of the worker's own distributions."""
    path = [entry for entry in sys.path if not entry.startswith(f"{folder}/")]
    seen = set()
    for distribution in importlib.metadata.distributions(path=path):
        with contextlib.suppress(KeyError, TypeError):
            name = canonicalize_name(distribution.metadata["Name"])
            if name not in seen:
                seen.add(name)
                yield name, distribution.version


def _resolve(requirements: Path, constraints: Path, report: Path) -> list[dict[str, Any]]:
    """What has to be installed beside what there is, as items of pip's installation report."""
    _run(
        [
            *("install", "--quiet", "--dry-run", "--report", str(report)),
            *("-r", str(requirements), "-c", str(constraints)),
        ],
        requirements,
    )
    items: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return items


def _line(item: dict[str, Any]) -> str:
    """A requirement that only this very distribution meets."""
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    return f"{name} @ {item['download_info']['url']}" if item.get("is_direct") else f"{name}=={version}"


def _run(command: Sequence[str], requirements: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pip", *command, "--disable-pip-version-check", "--no-input"],
        cwd=requirements.parent,
        check=False,
    )
    if result.returncode:
        raise ConfigError(
            f"{requirements}: pip failed, see above. The worker's own packages (torch, numpy, protobuf ...) cannot be "
            "replaced: where the conflict is with one of these, ask for the version that is there, or for none"
        )
