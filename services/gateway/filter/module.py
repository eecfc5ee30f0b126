"""The routing filter as a part of Envoy's configuration: a shared library, and what it is told."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from services.gateway.methods import METHODS

NAME = "dl_route"  # Envoy looks for libdl_route.so
SEARCH_PATH = "ENVOY_DYNAMIC_MODULES_SEARCH_PATH"  # Envoy's environment variable: the folder to look in

_LIBRARY = f"lib{NAME}.so"


def configuration(max_message_bytes: int) -> str:
    """What the filter is told, in the form that methods.h describes."""
    rows = (f"method {m.key} {'streaming' if m.streaming else 'unary'} {m.path} {m.target}" for m in METHODS)
    return "\n".join((f"limit {max_message_bytes}", *rows))


def library_folder(scratch: Path) -> Path:
    """The folder that holds the library: the package's own, or `scratch` where the package is inside an archive.

    Raises OSError when the library is missing or cannot be written.
    """
    library = resources.files("services.gateway").joinpath("filter/" + _LIBRARY)
    if isinstance(library, Path):
        if not library.is_file():
            raise FileNotFoundError(f"{library} is missing: its BUILD file says how to make it")
        return library.parent
    (scratch / _LIBRARY).write_bytes(library.read_bytes())
    return scratch
