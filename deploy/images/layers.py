"""The layers of images, and which of them a change makes anew: for deploy/image-layers.

    layers.py list IMAGE ...            their layers as JSON
    layers.py compare BEFORE AFTER      a table of two such lists; the engine still has the images of AFTER

Only the standard library: it runs where there is nothing but Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

TIMEOUT_S = 300
# As a registry's clients compress.
_GZIP_LEVEL = 6
# Layers of more than this are not packed: they take minutes, and a change of our code makes none such.
LARGEST = 64_000_000
# In the order of the Dockerfile: what is below the two is the base.
NAMES = ("dependencies", "our code")

Layers = list[tuple[str, int]]
"""Of an image, from the lowest: the digest of the layer's files, and their size in bytes."""


def layers_of(image: Mapping[str, Any], history: Sequence[str]) -> Layers:
    """From what `docker image inspect` says, and the sizes of `docker history`, the newest first.

    A step of the Dockerfile that changes no file has no layer, and size 0.
    """
    digests = image["RootFS"]["Layers"]
    sizes = [int(size) for size in reversed(history)]
    filled = [size for size in sizes if size > 0]
    if len(filled) != len(digests):
        raise ValueError(f"{len(digests)} layers, of which {len(filled)} have a size: {sizes}")
    return list(zip(digests, filled, strict=True))


def parts(layers: Layers) -> tuple[float, float, float]:
    """MB of the base, the dependencies, our code: the last two layers, and all below them."""
    own = len(NAMES)
    sizes = [size / 1e6 for _, size in layers]
    return (sum(sizes[:-own]), sizes[-2], sizes[-1])


def new_layers(before: Layers, after: Layers) -> list[str]:
    """The digests that only the newer image has."""
    known = {digest for digest, _ in before}
    return [digest for digest, _ in after if digest not in known]


def compressed_size(file: IO[bytes]) -> int:
    """Bytes of what is read, as gzip packs it."""
    packer, size = zlib.compressobj(_GZIP_LEVEL, wbits=31), 0
    while chunk := file.read(1 << 20):
        size += len(packer.compress(chunk))
    return size + len(packer.flush())


def sent(image: str, digests: Sequence[str]) -> int:
    """Bytes that a registry is sent for some of an image's layers, which `docker save` has as files.

    Raises KeyError for a layer of more than LARGEST bytes.
    """
    order = _inspect(image)["RootFS"]["Layers"]
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        sizes, named = {}, []
        with tarfile.open(fileobj=saving.stdout, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None:
                    continue
                if member.name == "manifest.json":
                    (manifest,) = json.load(content)
                    named = manifest["Layers"]
                elif member.size < LARGEST:
                    sizes[member.name] = compressed_size(content)
    return sum(sizes[named[order.index(digest)]] for digest in digests)


def _inspect(image: str) -> Any:
    (found,) = json.loads(_docker("image", "inspect", image))
    return found


def _docker(*arguments: str) -> str:
    command = ["docker", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S).stdout


def table(before: Mapping[str, Layers], after: Mapping[str, Layers], sizes: Mapping[str, int]) -> str:
    lines = [
        f"{'image':<36} {'base':>7} {'dependencies':>13} {'our code':>9} {'all':>7}   made anew, sent compressed"
    ]
    for image, layers in after.items():
        base, dependencies, code = parts(layers)
        new = new_layers(before[image], layers)
        names = [name for name, (digest, _) in zip(NAMES, layers[-2:], strict=True) if digest in new]
        of = f"{len(new)} of {len(layers)} layers ({', '.join(names) or 'none'}), {sizes[image] / 1e6:.2f} MB"
        total = base + dependencies + code
        lines.append(f"{image:<36} {base:>7.0f} {dependencies:>13.0f} {code:>9.1f} {total:>7.0f}   {of}")
    return "\n".join([*lines, "MB on disk; a registry stores and sends compressed."])


def main() -> None:
    what, *names = sys.argv[1:]
    if what == "list":
        found = {
            name: layers_of(
                _inspect(name), _docker("history", "--human=false", "--format", "{{.Size}}", name).split()
            )
            for name in names
        }
        print(json.dumps(found))
        return
    before, after = (
        {image: [(str(digest), int(size)) for digest, size in held] for image, held in listed.items()}
        for listed in (json.loads(Path(name).read_text()) for name in names)
    )
    print(
        table(before, after, {image: sent(image, new_layers(before[image], after[image])) for image in after})
    )


if __name__ == "__main__":
    main()
