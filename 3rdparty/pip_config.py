"""Prints what this machine's pip is configured with, for tools that do not read pip's configuration.

`pip_config.py` prints shell exports for Pants; `pip_config.py --find-links` prints the find-links, one a line.
"""

from __future__ import annotations

import glob
import json
import os
import shlex
import subprocess
import sys

TORCH = "torch-*+cpu-*.whl"
# Where PyTorch publishes its CPU builds, for machines that have no wheel of their own.
TORCH_CPU_PAGE = "https://download.pytorch.org/whl/cpu/torch/"


def pip_settings() -> dict[str, list[str]]:
    """Returns pip's settings by option name (`find-links`), each with its values; the environment's win."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    settings: dict[str, list[str]] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = "".join(shlex.split(value.replace("\\n", " "))).split()
    return settings


def find_links(settings: dict[str, list[str]]) -> list[str]:
    """Returns the configured find-links, and PyTorch's page when none of them is a folder with its CPU wheel."""
    links = list(dict.fromkeys(settings.get("find-links", [])))
    folders = [link.removeprefix("file://") for link in links]
    if not any(glob.glob(os.path.join(folder, TORCH)) for folder in folders):
        links.append(TORCH_CPU_PAGE)
    return links


def main() -> None:
    settings = pip_settings()
    if "--find-links" in sys.argv[1:]:
        print(*find_links(settings), sep="\n")
        return
    exports = {"PANTS_PYTHON_REPOS_FIND_LINKS": json.dumps(find_links(settings))}
    extra = settings.get("extra-index-url", [])
    if "index-url" in settings:
        exports["PANTS_PYTHON_REPOS_INDEXES"] = json.dumps(settings["index-url"] + extra)
    elif extra:
        exports["PANTS_PYTHON_REPOS_INDEXES"] = "+" + json.dumps(extra)
    if "cert" in settings:
        exports["PANTS_CA_CERTS_PATH"] = settings["cert"][0]
    for name, value in exports.items():
        if name not in os.environ:  # what the caller has set already is the caller's decision
            print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
