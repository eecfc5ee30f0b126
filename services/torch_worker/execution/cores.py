"""How many CPU cores this process may use, and how the worker divides them."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(cpu_max: Path = _CGROUP_CPU_MAX) -> int:
    """Cores by the affinity mask and the container's CPU quota (cgroup v2 cpu.max: "quota period" in
    microseconds).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()[:2]
        if quota != "max":
            cores = min(cores, max(1, math.floor(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: no quota
    return max(1, cores)


def model_threads(requested: int, cores: int) -> int:
    """Threads of one model call: as requested, or one core is left to the transport where there are
    several.
    """
    return requested if requested > 0 else max(1, cores - 1)


def hook_threads(requested: int, cores: int) -> int:
    """Threads for preprocess: as requested, or one a core up to 8, beyond which Python's lock is what they
    wait for.
    """
    return requested if requested > 0 else min(cores, 8)
