"""A folder's requirements.txt: what of it is there, and where `torch-worker prepare` puts what is not.

Nothing is installed when a model is served. What prepare installs lies in the folder itself, in PACKAGES, behind
everything of the worker's own on the import path. It is the process's, not the version's: of a package that two
versions require, the one that was imported first serves both.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from services.torch_worker.config import ConfigError
from services.torch_worker.model.folder import REQUIREMENTS_FILE
from services.torch_worker.model.namespace import PACKAGES
from services.torch_worker.model.seldon_shim import DISTRIBUTION

log = logging.getLogger(__name__)

# Served without: classes get what they import of it here.
_PROVIDED = frozenset({canonicalize_name(DISTRIBUTION)})


@dataclass(frozen=True, slots=True)
class Lack:
    """A requirement that is not met.

    Attributes:
        requirement: as the file has it.
        installed: the version that is there, which is another one; None where there is none.
    """

    requirement: str
    installed: str | None

    def __str__(self) -> str:
        return (
            self.requirement if self.installed is None else f"{self.requirement} (there is {self.installed})"
        )


def read_requirements(file: Path) -> list[Requirement]:
    """The requirements of a file and those it includes, as far as they name a distribution; for this machine.

    Raises:
        ConfigError: a file cannot be read, or a line is none that pip would take.
    """
    return list(_read(file, 0))


def _read(file: Path, depth: int) -> Iterator[Requirement]:
    if depth > 8:
        raise ConfigError(f"{file}: includes other files eight levels deep")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    # Lines that end in a backslash go on; blanked, so that lines keep their numbers.
    for number, line in enumerate(re.sub(r"\\\n(?=(.*))", " ", text).splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        include = re.match(r"(?:-r|--requirement)[\s=]*(\S+)$", line)
        if include is not None:
            yield from _read(file.parent / include[1], depth + 1)
            continue
        line = re.split(r"\s--", line)[0]
        # Options, and files and addresses without a name: only pip knows what they bring.
        if (
            not line
            or line.startswith(("-", ".", "/"))
            or re.match(r"[\w+.-]+://", line)
            or line.endswith(".whl")
        ):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise ConfigError(
                f"{file}:{number}: {line}: not a requirement: {str(error).splitlines()[0]}"
            ) from error
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def is_provided(line: str) -> bool:
    """Whether a line of a requirements file asks for what folders are served without."""
    name = re.match(r"\s*([A-Za-z0-9][\w.-]*)", line)
    return name is not None and canonicalize_name(name[1]) in _PROVIDED


def lacking(folder: Path) -> list[Lack]:
    """The requirements of the folder's requirements.txt that are not met on the import path."""
    file = folder / REQUIREMENTS_FILE
    if not file.is_file():
        return []
    found = []
    for requirement in read_requirements(file):
        if canonicalize_name(requirement.name) in _PROVIDED:
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(Lack(str(requirement), None))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(Lack(str(requirement), version))
    return found


def add_packages(folder: Path) -> None:
    """Put what prepare installed for the folder on the import path, at its end."""
    packages = str(folder / PACKAGES)
    if Path(packages).is_dir() and packages not in sys.path:
        sys.path.append(packages)
        importlib.invalidate_caches()


def check_requirements(folder: Path) -> None:
    """See that what requirements.txt asks for is there; another version than it asks for is worth a warning.

    Raises:
        ConfigError: a distribution is not there at all; says which, and the command that installs it.
    """
    add_packages(folder)
    lacks = lacking(folder)
    missing = [lack for lack in lacks if lack.installed is None]
    command = f"torch-worker prepare --model-dir {shlex.quote(str(folder))}"
    if missing:
        raise ConfigError(
            f"{folder / REQUIREMENTS_FILE}: not installed: {', '.join(map(str, missing))}; run `{command}`"
        )
    if lacks:
        log.warning(
            "%s asks for other versions than are installed: %s; `%s` installs what it can without replacing the "
            "worker's own packages",
            folder / REQUIREMENTS_FILE,
            ", ".join(map(str, lacks)),
            command,
        )
