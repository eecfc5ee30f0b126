"""Makes the wheel `dl-inference-client`: the package dl_inference, and inside it the modules of libs/ that it uses.

In the repository these are `libs.proto` and `libs.balancing`, names that a wheel must not claim for itself; inside the
wheel they are `dl_inference._libs.proto` and so on. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import dl_inference

NAME, VERSION = "dl_inference_client", dl_inference.__version__
METADATA = f"""\
Metadata-Version: 2.3
Name: {NAME.replace("_", "-")}
Version: {VERSION}
Summary: Calls deep learning models by gRPC: TensorFlow Serving, Seldon and KServe V2 protocols, numpy in and out.
License: Apache-2.0
Requires-Python: >=3.11
Requires-Dist: grpcio>=1.60
Requires-Dist: numpy>=1.26
Requires-Dist: click>=8.1
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: make_wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
ENTRY_POINTS = "[console_scripts]\ndl-inference = dl_inference.cli:main\n"

_HOME = "dl_inference/_libs/"
_IMPORT = re.compile(r"^(\s*)(from|import) libs\.", re.MULTILINE)
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip file can name


def rewritten(source: str) -> str:
    """The source with `libs.` imported from inside the package."""
    return _IMPORT.sub(r"\1\2 dl_inference._libs.", source)


def imports(source: str) -> set[str]:
    """Modules below `libs` that the source may mean: of `from libs.a import b` both libs.a and libs.a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return {name for name in found if name.startswith("libs.")}


def used(sources: Iterable[str], root: Path) -> dict[str, str]:
    """Every module of libs/ that the sources import, and these import in turn: path below `root` to source."""
    found: dict[str, str] = {}
    wanted = {name for source in sources for name in imports(source)}
    while wanted:
        name = wanted.pop()
        path = name.replace(".", "/") + ".py"
        if path in found or not (root / path).is_file():
            continue
        found[path] = (root / path).read_text()
        wanted |= imports(found[path])
    return found


def contents(package: Path, root: Path) -> dict[str, str]:
    """The wheel's files but for its metadata.

    Args:
        package: the folder dl_inference.
        root: the folder that has libs/.
    """
    own = {
        path.name: path.read_text()
        for path in sorted(package.glob("*.py"))
        if not path.name.endswith("_test.py") and not path.name.startswith(("testing", "conftest"))
    }
    files = {f"dl_inference/{name}": rewritten(source) for name, source in own.items()}
    files["dl_inference/py.typed"] = ""
    for path, source in used(own.values(), root).items():
        files[_HOME + path.removeprefix("libs/")] = rewritten(source)
    for folder in {str(Path(path).parent) for path in files if path.startswith(_HOME)} | {_HOME.rstrip("/")}:
        files[f"{folder}/__init__.py"] = ""
    return files


def wheel(files: Mapping[str, str]) -> bytes:
    """A wheel of these files (PEP 427)."""
    info = f"{NAME}-{VERSION}.dist-info"
    whole = {
        **dict(sorted(files.items())),
        f"{info}/METADATA": METADATA,
        f"{info}/WHEEL": WHEEL,
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in whole.items()]
    whole[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in whole.items():
            entry = zipfile.ZipInfo(path, _LONG_AGO)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, text)
    return out.getvalue()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make-client-wheel", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the wheel [%(default)s]")
    out: Path = parser.parse_args(argv).out
    package = Path(dl_inference.__file__).parent
    import libs.proto.wire as some_module

    files = contents(package, Path(some_module.__file__).parent.parent.parent)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{NAME}-{VERSION}-py3-none-any.whl"
    path.write_bytes(wheel(files))
    print(f"{path}: {path.stat().st_size // 1024} KiB, {len(files)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
