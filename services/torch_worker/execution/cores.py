"""How many CPU cores this process may use, and how the worker divides them.

A container sees all of the machine's cores; what it may use of them is said by its affinity mask and by the CPU quota
of its control group and of every group above it. Threads beyond that only make the kernel stop the process for the
rest of each period.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores(root: Path = _CGROUP_ROOT, membership: Path = _MEMBERSHIP) -> int:
    """Cores by the affinity mask and the CPU quotas of the control groups, at least 1.

    A quota of 2.5 cores counts as 2: three threads would be stopped for part of every period, all at once.

    Args:
        root: where the kernel shows control groups: version 2, version 1 with a folder per controller, or both.
        membership: this process's groups, lines of "id:controllers:path" (cgroups(7)).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [cores, *_quotas(root, membership)]
    return max(1, math.floor(min(quotas)))


def model_threads(cores: int, instances: int = 1) -> int:
    """Threads of one model call where nothing was measured: one core is left to the transport where there are
    several, and the rest divided among the instances that run at a time.
    """
    return max(1, (cores - 1) // instances)


def hook_threads(requested: int, cores: int) -> int:
    """Threads for preprocess: as requested, or one a core up to 8, beyond which Python's lock is what they
    wait for.
    """
    return requested if requested > 0 else min(cores, 8)


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """Cores that each group of this process allows, of those that set a limit."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/", "1:cpu:/"]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for mount in (root, root / "unified"):
                for group in _up(mount, path):
                    yield from _quota_v2(group)
        elif "cpu" in controllers.split(","):
            for mount in (root / controllers, root / "cpu"):
                for group in _up(mount, path):
                    yield from _quota_v1(group)


def _up(mount: Path, path: str) -> Iterator[Path]:
    """The group and those above it. In a container the path may be the host's, with the container's own group mounted
    as the root: what does not exist is passed over by the readers.
    """
    group = Path(path.strip("/"))
    if ".." in group.parts:  # a group outside this process's namespace
        group = Path()
    yield mount / group
    for parent in group.parents:
        yield mount / parent


def _quota_v2(group: Path) -> Iterator[float]:
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()[:2]
        if quota != "max":
            yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return


def _quota_v1(group: Path) -> Iterator[float]:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        if quota > 0:
            yield quota / int((group / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError, ZeroDivisionError):
        return
