"""Build step: compiles the routing filter with the C compiler of PyPI's ziglang.

    python services/gateway/filter/build.py services/gateway/filter/libdl_route.so
    python services/gateway/filter/build.py --check services/gateway/filter/libdl_route_check.so

The first is the module for Envoy. The second is for the tests: its parsers alone, and every operation that C leaves
undefined ends the process. The sources are those in the target's folder. Nothing but libc is needed to run either, of
glibc 2.17 or newer, and nothing is downloaded to make them.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

PARSERS = ("inflate.c", "route_key.c")
GLUE = ("body.c", "call_log.c", "call_memory.c", "filter.c", "methods.c")
GLIBC = "2.17"  # of 2012: older than all that Envoy itself runs on
TIMEOUT_S = 300

COMMON = ("-std=c11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
MODULE = ("-O2", "-s", "-fvisibility=hidden")
CHECK = ("-O1", "-g", "-fsanitize=undefined", "-fsanitize-trap=undefined")


def build(target: Path, *, check: bool) -> None:
    """Writes the library. Raises subprocess.CalledProcessError when a source has an error."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu.{GLIBC}"]
    options = [*COMMON, *(CHECK if check else MODULE)]
    sources = PARSERS if check else PARSERS + GLUE
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
    parser.add_argument("--check", action="store_true", help="the parsers alone, for the tests")
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    build(options.target, check=options.check)


if __name__ == "__main__":
    main()
