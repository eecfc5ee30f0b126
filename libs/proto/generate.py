"""Generate the Python modules of the .proto files beside this one.

    python libs/proto/generate.py            # in the repository root: writes beside the .proto files
    python -m libs.proto.generate --out DIR  # writes DIR/libs/proto/*_pb2.py ...

For each file: `*_pb2.py` (messages), `*_pb2.pyi` (their types) and `*_pb2_grpc.py` (stubs, servicers). The
modules import each other as `libs.proto.*_pb2`. Needs grpcio-tools and nothing of this repository.

The .proto files are those of the working directory's libs/proto when it has any (a build may run this
script from a place of its own), else those beside this script.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path("libs/proto")

_DEFAULT_POOL = "_descriptor_pool.Default()"
_DEFAULT_POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool"
_PRIVATE_POOL_IMPORT = "from libs.proto import pool as _private_pool"
_BARE_MAPPING = re.compile(r"\b_Mapping\]")
_WELL_KNOWN_IMPORT = re.compile(
    r"^from google\.protobuf import \w+_pb2 as (google_dot_protobuf_dot_\w+)$", re.M
)


class GenerationError(RuntimeError):
    """protoc refused the files, or its output is not of the form that the rewriting knows."""


def privatise_messages(source: str) -> str:
    """Make a generated `*_pb2` module register its file in `libs.proto.pool` instead of the default pool."""
    if source.count(_DEFAULT_POOL) != 1 or source.count(_DEFAULT_POOL_IMPORT) != 1:
        raise GenerationError(
            f"expected one {_DEFAULT_POOL!r} and one {_DEFAULT_POOL_IMPORT!r} in a generated module: "
            "does this grpcio-tools version write another form?"
        )
    return source.replace(_DEFAULT_POOL, "_private_pool.POOL").replace(
        _DEFAULT_POOL_IMPORT, _PRIVATE_POOL_IMPORT
    )


def privatise_services(source: str) -> str:
    """Make a generated `*_pb2_grpc` module take well-known messages from `libs.proto.pool`."""
    return _WELL_KNOWN_IMPORT.sub(r"from libs.proto import pool as \1", source)


def complete_types(source: str) -> str:
    """Give a generated `*_pb2.pyi` the type arguments that `mypy --strict` asks for."""
    return _BARE_MAPPING.sub("_Mapping[str, object]]", source)


def find_root() -> Path:
    """The folder that holds libs/proto/*.proto: the working directory, else the one above this script."""
    if any((Path.cwd() / PACKAGE).glob("*.proto")):
        return Path.cwd()
    return Path(__file__).absolute().parents[2]


def run_protoc(root: Path, protos: Sequence[Path], out: Path) -> None:
    """Run grpcio-tools' protoc over `protos` (paths under `root`) into the folder `out`."""
    grpc_tools = importlib.import_module("grpc_tools")
    protoc = importlib.import_module("grpc_tools.protoc")

    well_known = Path(*grpc_tools.__path__) / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={root}",
            f"--proto_path={well_known}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            *(proto.relative_to(root).as_posix() for proto in protos),
        ]
    )
    if status != 0:
        raise GenerationError(f"protoc failed with status {status}; its messages are above")


def generate(root: Path, out: Path) -> list[Path]:
    """Write the modules of every .proto file of `root/libs/proto` and return their paths, sorted.

    `out` plays the role of the repository root: the modules land in `out/libs/proto/`.
    """
    protos = sorted((root / PACKAGE).glob("*.proto"))
    if not protos:
        raise GenerationError(f"no .proto files in {root / PACKAGE}")
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(root, protos, Path(scratch))
        for made in sorted(Path(scratch).rglob("*.py*")):
            source = made.read_text(encoding="utf-8")
            if made.name.endswith("_pb2_grpc.py"):
                source = privatise_services(source)
            elif made.suffix == ".pyi":
                source = complete_types(source)
            else:
                source = privatise_messages(source)
            target = out / made.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source, encoding="utf-8")
            written.append(target)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Generate the Python messages and stubs of libs/proto/*.proto.",
        epilog="example: python libs/proto/generate.py --out build/   (writes build/libs/proto/*_pb2.py)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder that stands for the repository root (default: the repository root itself)",
    )
    options = parser.parse_args(argv)
    root = find_root()
    out = options.out or root
    try:
        written = generate(root, out)
    except ImportError as error:
        print(f"error: {error}; install grpcio-tools==1.76.0 (3rdparty/codegen)", file=sys.stderr)
        return 1
    except GenerationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {len(written)} files to {out / PACKAGE}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
