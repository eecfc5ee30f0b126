"""Build step: compiles C with the compiler of PyPI's ziglang, which need not be installed and is the same everywhere.

    python libs/native/build.py services/gateway/filter/libdl_route.so body.c filter.c ...
    python libs/native/build.py --check services/gateway/filter/libdl_route_check.so route_key.c ...

The first makes a module for Envoy. The second makes a library for tests: every operation that C leaves undefined ends
the process. The sources lie in the target's folder, and include each other's headers by their path from the root.
Nothing but libc is needed to run either, of glibc 2.17 or newer, and nothing is downloaded to make them.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

GLIBC = "2.17"  # of 2012: older than all that Envoy itself runs on
TIMEOUT_S = 300

COMMON = ("-std=c11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
MODULE = ("-O2", "-s", "-fvisibility=hidden")
CHECK = ("-O1", "-g", "-fsanitize=undefined", "-fsanitize-trap=undefined")


def build(target: Path, sources: Sequence[str], *, check: bool) -> None:
    """Writes the library. Raises subprocess.CalledProcessError when a source has an error."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu.{GLIBC}"]
    options = [*COMMON, *(CHECK if check else MODULE), "-I", os.getcwd()]
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [*compiler, *options, "-o", target.name, *sources],
            cwd=target.parent,
            env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
            check=True,
            timeout=TIMEOUT_S,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="build.py")
    parser.add_argument(
        "--check", action="store_true", help="a library for tests, that traps what is undefined"
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("sources", nargs="+", help="in the target's folder")
    options = parser.parse_args()
    build(options.target, options.sources, check=options.check)


if __name__ == "__main__":
    main()
