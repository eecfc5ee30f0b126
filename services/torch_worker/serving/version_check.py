"""What of a folder of versions is looked at, and what is refused before a server is started for it."""

from __future__ import annotations

from pathlib import Path

from libs.serving.version_folders import scan
from services.torch_worker.model.folder import is_model_folder, open_folder

# Files whose change makes another model. Data files that hooks read are left out: models write such beside themselves.
_CONTENT_SUFFIXES = (".pth", ".pt", ".pt2", ".safetensors", ".py", ".toml")


def is_content(name: str) -> bool:
    """Whether a file of this name makes another model when it changes."""
    return name.endswith(_CONTENT_SUFFIXES)


def check_folder(path: Path) -> None:
    """See that the folder may hold something to serve, before a server is started for it.

    Raises:
        ConfigError: it does not; says what is expected.
    """
    if not scan(path.absolute(), is_model=is_model_folder) or is_model_folder(path):
        open_folder(path)
