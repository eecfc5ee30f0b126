"""Where an instance of a model listens."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

# RFC 1123 labels, and the underscore that Docker Compose and Kubernetes users put in service names.
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_NAME = 253
_LOOKS_NUMERIC = re.compile(r"[0-9.]+")


class EndpointError(ValueError):
    """An endpoint's text is wrong. `expected` says what would be right, `hint` how to get there."""

    def __init__(self, message: str, *, expected: str, hint: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.hint = hint


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A host (IPv4, IPv6 without brackets, or a name in lower case) and a TCP port, 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """True when the host is a DNS name, which has to be resolved before it can be called."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Reads `10.0.0.7:8500`, `[fd00::7]:8500` or `textcnn.models.svc:8500`.

        Raises EndpointError.
        """
        host, port = _split(text)
        return cls(_host(host, text), _port(port))


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise EndpointError(
                f"{text!r} is not an endpoint", expected="[IPv6]:port", hint="write it as [fd00::7]:8500"
            )
        if ":" not in host:
            raise EndpointError(
                f"{host!r} in brackets is not an IPv6 address",
                expected="[IPv6]:port",
                hint="brackets are for IPv6 only; write the host without them",
            )
        return host, rest[1:]
    if text.count(":") > 1:
        raise EndpointError(
            f"{text!r} is ambiguous",
            expected="[IPv6]:port",
            hint="put an IPv6 address in brackets: [fd00::7]:8500",
        )
    host, colon, port = text.partition(":")
    if not colon:
        raise EndpointError(
            f"{text!r} has no port",
            expected="host:port",
            hint=f"add the port of the model server: {text or 'host'}:8500",
        )
    return host, port


def _host(host: str, text: str) -> str:
    if not host:
        raise EndpointError(f"{text!r} has no host", expected="host:port")
    if "%" in host:  # Envoy leaves such an instance out without a word
        raise EndpointError(
            f"{host!r} has a zone",
            expected="[IPv6]:port",
            hint="an address that needs no zone, like [fd00::7]:8500",
        )
    try:
        address = ipaddress.ip_address(host)
        # The same instance, and Envoy speaks of it by this name.
        return str(getattr(address, "ipv4_mapped", None) or address)
    except ValueError:
        pass
    if ":" in host:
        raise EndpointError(f"{host!r} is not an IPv6 address", expected="[IPv6]:port")
    if _LOOKS_NUMERIC.fullmatch(host):
        raise EndpointError(f"{host!r} is not an IPv4 address", expected="four numbers from 0 to 255")
    name = host.rstrip(".")
    if len(name) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise EndpointError(
            f"{host!r} is not a host name",
            expected="an IP address or a DNS name",
            hint="a name has letters, digits, '-' and '.', at most 63 between dots",
        )
    return name.lower()


def _port(text: str) -> int:
    # isascii keeps out the digits of other scripts, which int() would read.
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:6]) <= 65535 or len(text) > 5:
        raise EndpointError(f"{text!r} is not a port", expected="a whole number from 1 to 65535")
    return int(text)
