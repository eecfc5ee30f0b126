"""Makes dl-inference-protos.zip: the .proto files of callers at their import paths, and a README.

A PEP 517 backend, because that is how `./pants package` runs code of ours; by hand:

    python libs/proto/bundle/make_bundle.py --out dist

The same sources give the same bytes, on every machine.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE_NAME = "dl-inference-protos.zip"
# What a caller compiles: the gateway's service and everything that it imports. gRPC's own services
# (health, reflection) come with every language's gRPC library.
ENTRY = "libs/proto/wpai.proto"
README = "libs/proto/bundle/README.md"

_IMPORT = re.compile(r'^import "(?P<path>[^"]+)";', re.MULTILINE)
_WELL_KNOWN = "google/protobuf/"  # protoc brings these itself
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip file can name


def protos(root: Path) -> list[str]:
    """The import paths of ENTRY and of every file that it needs, sorted.

    Args:
        root: the folder that has libs/.

    Raises:
        FileNotFoundError: an imported file is not there.
    """
    found: set[str] = set()
    wanted = {ENTRY}
    while wanted:
        path = wanted.pop()
        found.add(path)
        imports = _IMPORT.findall((root / path).read_text(encoding="utf-8"))
        wanted |= {name for name in imports if not name.startswith(_WELL_KNOWN)} - found
    return sorted(found)


def contents(root: Path) -> dict[str, bytes]:
    """The bundle's files by their paths in it."""
    files = {"README.md": (root / README).read_bytes()}
    return files | {path: (root / path).read_bytes() for path in protos(root)}


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of the files, in the order of their names; stored as they are, so no zlib version shows in the bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(files.items()):
            entry = zipfile.ZipInfo(path, _LONG_AGO)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content)
    return out.getvalue()


def build_sdist(folder: str, settings: Mapping[str, object] | None = None) -> str:
    """The backend's hook: writes the bundle into `folder` and returns its name."""
    root = Path(__file__).absolute().parents[3]
    (Path(folder) / FILE_NAME).write_bytes(zipped(contents(root)))
    return FILE_NAME


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Bundle the .proto files that callers need.")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the bundle [%(default)s]")
    out: Path = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    print(out / build_sdist(str(out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
