"""Hosts on one machine: network namespaces, each at the end of a cable to a switch, which is where the callers are.

Everything is made inside the network and mount namespace of this process (deploy/check-hosts starts it so), so that it
ends with it, and so that no firewall rule of the machine stands between the hosts.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

_TIMEOUT_S = 10
# For documentation (RFC 5737): no real host is hidden.
_NETWORK = "203.0.113"
CALLERS = f"{_NETWORK}.1"
_NAMES = Path("/run/netns")


class Host:
    """A host with one address.

    Args:
        number: from 1; the last byte of its address is 10 more.
    """

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{_NETWORK}.{10 + number}"
        self._port = f"port-{name}"
        ip("netns", "add", name)
        ip("link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", self._port, "master", "switch", "up")
        ip("-n", name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", name, "link", "set", device, "up")

    def inside(self) -> tuple[str, ...]:
        """What goes before a command that is to run on this host."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """From now on no packet leaves or reaches the host, and nobody is told."""
        ip("link", "set", self._port, "down")

    def mend(self) -> None:
        ip("link", "set", self._port, "up")


def switch() -> None:
    """Makes the switch that hosts are plugged into, and this process's own address at it."""
    _NAMES.mkdir(exist_ok=True)
    # Names of hosts that nobody else sees and that end with the mount namespace.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(_NAMES)], check=True, timeout=_TIMEOUT_S)
    ip("link", "set", "lo", "up")
    ip("link", "add", "switch", "type", "bridge")
    ip("addr", "add", f"{CALLERS}/24", "dev", "switch")
    ip("link", "set", "switch", "up")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=_TIMEOUT_S)
