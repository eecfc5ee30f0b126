"""Certificates and tokens made in the test, with nothing but Python: DER (X.690), X.509 (RFC 5280), ECDSA on P-256.

Slow and with fixed-format numbers: for tests alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

# NIST P-256 (FIPS 186-4, D.1.2.3): field, coefficient b, order, base point.
_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_Point = tuple[int, int] | None  # None is the point at infinity


def _add(a: _Point, b: _Point) -> _Point:
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % _P == 0:
        return None
    # The tangent's slope (the curve's a is -3), or the line's through both.
    rise, run = (3 * (a[0] * a[0] - 1), 2 * a[1]) if a == b else (b[1] - a[1], b[0] - a[0])
    slope = rise * pow(run, -1, _P)
    x = (slope * slope - a[0] - b[0]) % _P
    return x, (slope * (a[0] - x) - a[1]) % _P


def _times(factor: int, point: _Point) -> _Point:
    found: _Point = None
    while factor:
        if factor & 1:
            found = _add(found, point)
        point, factor = _add(point, point), factor >> 1
    return found


@dataclass(frozen=True, slots=True)
class Key:
    """A private key on P-256."""

    number: int
    public: tuple[int, int]

    @classmethod
    def make(cls) -> Key:
        number = secrets.randbelow(_N - 1) + 1
        public = _times(number, _G)
        assert public is not None
        return cls(number, public)

    def sign(self, data: bytes) -> tuple[int, int]:
        """ECDSA with SHA-256."""
        digest = int.from_bytes(hashlib.sha256(data).digest(), "big")
        while True:
            nonce = secrets.randbelow(_N - 1) + 1
            point = _times(nonce, _G)
            assert point is not None
            r = point[0] % _N
            s = pow(nonce, -1, _N) * (digest + r * self.number) % _N
            if r and s:
                return r, s

    @property
    def point(self) -> bytes:
        return b"\x04" + self.public[0].to_bytes(32, "big") + self.public[1].to_bytes(32, "big")

    @property
    def pem(self) -> bytes:
        """SEC 1's form of a private key."""
        curve = _der(0xA0, _CURVE)
        public = _der(0xA1, _der(0x03, b"\0" + self.point))
        return _pem(
            "EC PRIVATE KEY",
            _sequence(_integer(1), _der(0x04, self.number.to_bytes(32, "big")), curve, public),
        )


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _integer(number: int) -> bytes:
    return _der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _oid(encoded: str) -> bytes:
    return _der(0x06, bytes.fromhex(encoded))


_CURVE = _oid("2a8648ce3d030107")  # prime256v1
_ECDSA_SHA256 = _sequence(_oid("2a8648ce3d040302"))


def _name(common_name: str) -> bytes:
    return _sequence(_der(0x31, _sequence(_oid("550403"), _der(0x0C, common_name.encode()))))


def _time(at: datetime) -> bytes:
    return _der(0x17, at.strftime("%y%m%d%H%M%SZ").encode())


def _extension(encoded: str, content: bytes, *, critical: bool = False) -> bytes:
    return _sequence(_oid(encoded), *([_der(0x01, b"\xff")] if critical else []), _der(0x04, content))


def _pem(kind: str, der: bytes) -> bytes:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n".encode()


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key."""

    name: str
    key: Key
    pem: bytes


def authority(name: str = "test authority") -> Identity:
    """A certificate that signs others, and itself."""
    key = Key.make()
    return Identity(
        name,
        key,
        _certificate(
            name, key, name, key, [_extension("551d13", _sequence(_der(0x01, b"\xff")), critical=True)]
        ),
    )


def certificate(
    issuer: Identity,
    name: str = "localhost",
    *,
    not_before: datetime = datetime(2020, 1, 1, tzinfo=UTC),
    not_after: datetime = datetime(2049, 1, 1, tzinfo=UTC),
) -> Identity:
    """A certificate for a host name, and for 127.0.0.1."""
    names = _sequence(_der(0x82, name.encode()), _der(0x87, bytes([127, 0, 0, 1])))
    key = Key.make()
    return Identity(
        name,
        key,
        _certificate(
            name, key, issuer.name, issuer.key, [_extension("551d11", names)], not_before, not_after
        ),
    )


def _certificate(
    name: str,
    key: Key,
    issuer: str,
    issuer_key: Key,
    extensions: Iterable[bytes],
    not_before: datetime = datetime(2020, 1, 1, tzinfo=UTC),
    not_after: datetime = datetime(2049, 1, 1, tzinfo=UTC),
) -> bytes:
    body = _sequence(
        _der(0xA0, _integer(2)),
        _integer(secrets.randbits(64)),
        _ECDSA_SHA256,
        _name(issuer),
        _sequence(_time(not_before), _time(not_after)),
        _name(name),
        _sequence(_sequence(_oid("2a8648ce3d0201"), _CURVE), _der(0x03, b"\0" + key.point)),
        _der(0xA3, _sequence(*extensions)),
    )
    r, s = issuer_key.sign(body)
    signature = _der(0x03, b"\0" + _sequence(_integer(r), _integer(s)))
    return _pem("CERTIFICATE", _sequence(body, _ECDSA_SHA256, signature))


# --- JSON Web Tokens (RFC 7519) ---


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwks(key: Key, key_id: str = "one") -> bytes:
    """The key set that verifies the key's tokens."""
    x, y = (_b64(number.to_bytes(32, "big")) for number in key.public)
    found = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": key_id, "x": x, "y": y}
    return json.dumps({"keys": [found]}).encode()


def token(key: Key, claims: Mapping[str, Any], key_id: str = "one") -> str:
    """A token signed with ES256 (RFC 7518, section 3.4)."""
    parts = (json.dumps(part).encode() for part in ({"alg": "ES256", "kid": key_id, "typ": "JWT"}, claims))
    signed = ".".join(_b64(part) for part in parts)
    signature = b"".join(number.to_bytes(32, "big") for number in key.sign(signed.encode()))
    return f"{signed}.{_b64(signature)}"
