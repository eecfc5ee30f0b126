"""The gateway's addresses, taken before anything else so that a taken one is known at once."""

from __future__ import annotations

import socket


def reserve_port(host: str, port: int) -> socket.socket:
    """Takes an address (port 0: any free port) and holds it without listening. Raises OSError when it is in use.

    Envoy binds the same address by SO_REUSEPORT, which alone would not tell that somebody else listens there.
    Held for as long as Envoy may be started again, nobody else gets the port meanwhile.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)
