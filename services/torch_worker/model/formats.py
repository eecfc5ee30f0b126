"""What a model file holds, told by its content: names do not say (TorchScript is often called model.pth)."""

from __future__ import annotations

import json
import zipfile
from enum import Enum
from pathlib import Path

from services.torch_worker.config import ConfigError

_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
# A safetensors file starts with the length of its JSON header, little-endian; the library takes no longer ones.
_HEADER_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


class Format(Enum):
    """A model file's format; the value is what people call it."""

    PICKLE = "pickle"
    TORCHSCRIPT = "TorchScript"
    EXPORT = "torch.export program"
    SAFETENSORS = "safetensors"


def detect(file: Path) -> Format:
    """The format of a model file. Executes nothing of it.

    A pickle may be of a whole model or of a state dict: only reading it tells.

    Raises:
        ConfigError: the file cannot be read, is cut short, or is no model; says what it seems to be.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
            size = stream.seek(0, 2)
            if head.startswith(_ZIP):
                return _zipped(file)
            if _looks_like_safetensors(head):
                stream.seek(_HEADER_LENGTH_BYTES)
                _check_safetensors(file, stream.read(int.from_bytes(head[:8], "little")), size)
                return Format.SAFETENSORS
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    if not head:
        raise ConfigError(f"{file}: is empty; copy it again, or save the model again")
    if head.startswith(_LFS):
        raise ConfigError(
            f"{file}: is a Git LFS pointer, not the model itself; run `git lfs pull` where it came from and copy the "
            "real file"
        )
    if head.startswith(_PICKLE):
        return Format.PICKLE
    raise ConfigError(
        f"{file}: is no model file (it starts with {head[:12]!r}); expected one written by torch.save, "
        "torch.jit.save, torch.export.save or safetensors"
    )


def _zipped(file: Path) -> Format:
    try:
        with zipfile.ZipFile(file) as archive:
            # Programs have zip files inside; of a file that is cut short, the last of these would be read.
            if min((entry.header_offset for entry in archive.infolist()), default=0):
                raise zipfile.BadZipFile("its directory is missing")
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{file}: is damaged or cut short ({error}); copy it again") from error
    if "constants.pkl" in names:
        return Format.TORCHSCRIPT
    if "archive_format" in names or any(name.endswith("exported_program.json") for name in names):
        return Format.EXPORT
    if "data.pkl" in names:
        return Format.PICKLE
    if any(name.startswith("data/aotinductor/") for name in names):
        raise ConfigError(
            f"{file}: is a package of AOTInductor, compiled for one machine and torch; save the program with "
            "torch.export.save instead, and compile it here with --compile"
        )
    raise ConfigError(
        f"{file}: is a zip archive of something else than a model: {', '.join(sorted(names)[:5])}"
    )


def _looks_like_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:_HEADER_LENGTH_BYTES], "little")
    return 2 <= length <= _MAX_HEADER_BYTES and head[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + 1] == b"{"


def _check_safetensors(file: Path, header: bytes, size: int) -> None:
    """The library says "incomplete metadata" of a file that is cut short; this says how much there should be."""
    try:
        tensors = json.loads(header)
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
        expected = _HEADER_LENGTH_BYTES + len(header) + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file}: is damaged or cut short: its safetensors header cannot be read"
        ) from error
    if size < expected:
        raise ConfigError(f"{file}: is cut short: {size} bytes of {expected}; copy it again")
