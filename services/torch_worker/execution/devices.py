"""The devices that `--device` names, checked to be usable."""

from __future__ import annotations

import re

import torch

from services.torch_worker.config import DEVICE_FORM, ConfigError


def resolve_devices(name: str) -> tuple[torch.device, ...]:
    """The torch devices of a --device value: `cpu`, `cuda` (the first), `cuda:1`, or several, `cuda:0,1`.

    Raises:
        ConfigError: the name is unknown, or this machine or this torch build has no such device.
    """
    if re.fullmatch(DEVICE_FORM, name) is None:
        raise ConfigError(f"--device {name}: expected cpu, cuda, cuda:N or cuda:N,N")
    if name == "cpu":
        return (torch.device("cpu"),)
    if torch.version.cuda is None:
        raise ConfigError(
            f"--device {name}: this is the CPU build of torch ({torch.__version__}); run the CUDA variant of "
            "the worker, or use --device cpu"
        )
    if not torch.cuda.is_available():
        raise ConfigError(
            f"--device {name}: torch sees no CUDA device here; check the driver (nvidia-smi) and, in a "
            "container, that the GPU is passed in, or use --device cpu"
        )
    indices = [int(part) for part in name.partition(":")[2].split(",") if part] or [0]
    if len(set(indices)) != len(indices):
        raise ConfigError(f"--device {name}: a device is named twice; --instances N puts N copies on each")
    count = torch.cuda.device_count()
    if max(indices) >= count:
        raise ConfigError(
            f"--device {name}: there {'is' if count == 1 else 'are'} only {count} CUDA "
            f"device{'' if count == 1 else 's'}, numbered from 0"
        )
    return tuple(torch.device("cuda", index) for index in indices)
