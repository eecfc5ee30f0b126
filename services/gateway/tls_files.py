"""Whether certificates, keys and authorities can be used, before Envoy is asked to.

OpenSSL (the `ssl` module) says whether they parse and belong together. What it does not tell without a connection, when
a certificate ends and what kind of key it has, is read from the certificate itself (X.509, RFC 5280 section 4.1).
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_RSA = bytes.fromhex("2a864886f70d010101")  # 1.2.840.113549.1.1.1
_EC = bytes.fromhex("2a8648ce3d0201")  # 1.2.840.10045.2.1
_MIN_RSA_BITS = 2048  # Envoy takes none shorter


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is asked of a certificate here. Times are in seconds since the epoch."""

    not_before: float
    not_after: float
    key_kind: str  # RSA, EC, or the algorithm's identifier in hex
    key_bits: int  # of an RSA key, else 0


def certificates(pem: bytes) -> list[Certificate]:
    """The certificates of a PEM file in order. Raises ValueError where one of them is damaged."""
    return [
        _certificate(ssl.PEM_cert_to_DER_cert(block.decode("ascii", "replace")))
        for block in _PEM.findall(pem)
    ]


def certificate_problem(pem: bytes, *, own: bool = True) -> str:
    """What is wrong with a file of certificates, "" when it can be used. `own`: one to show, not to verify with."""
    try:
        found = certificates(pem)
        if found:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(
                cadata=b"\n".join(_PEM.findall(pem)).decode()
            )
    except (ValueError, ssl.SSLError):
        return "holds a certificate that is damaged"
    if not found:
        return "holds no certificate"
    kind, bits = found[0].key_kind, found[0].key_bits
    if own and kind == "RSA" and bits < _MIN_RSA_BITS:
        return f"has an RSA key of {bits} bits, and Envoy takes {_MIN_RSA_BITS} or more"
    if own and kind not in ("RSA", "EC"):
        return "has a key that is neither RSA nor EC"
    return ""


def key_problem(cert: bytes, key: bytes) -> str:
    """What is wrong with the private key of a certificate, "" when the two can be used together."""
    if b"ENCRYPTED" in key:
        return "is encrypted"
    if b"PRIVATE KEY-----" not in key:
        return "holds no private key"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with _in_memory(cert) as cert_path, _in_memory(key) as key_path:
            context.load_cert_chain(cert_path, key_path, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            return "does not belong to the certificate"
        return "holds a private key that is damaged"
    return ""


def expiry_warning(pem: bytes, now: float, *, ahead_s: float = 14 * 86_400.0) -> str:
    """What a person should know about the times of a file of certificates; "" when there is nothing."""
    for found in certificates(pem):
        until = datetime.fromtimestamp(found.not_after, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if found.not_after <= now:
            return f"holds a certificate that expired on {until}: callers will refuse it; renew it"
        if found.not_before > now:
            since = datetime.fromtimestamp(found.not_before, UTC).strftime("%Y-%m-%d %H:%M UTC")
            return f"holds a certificate that is not valid before {since}"
        if found.not_after - now < ahead_s:
            return f"holds a certificate that expires on {until}: renew it"
    return ""


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A file name for bytes that never reach a disk: OpenSSL reads keys only from files."""
    number = os.memfd_create("pem")
    try:
        os.write(number, data)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


# --- DER: tag, length, value ---


def _read(data: bytes, at: int) -> tuple[int, int, int]:
    """The tag at a position, and where its value begins and ends. Raises ValueError beyond the data."""
    if at + 2 > len(data):
        raise ValueError("cut short")
    tag, length, start = data[at], data[at + 1], at + 2
    if length > 0x7F:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > len(data):
        raise ValueError("cut short")
    return tag, start, start + length


def _parts(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    while start < end:
        tag, first, after = _read(data, start)
        yield tag, first, after
        start = after


_EXPLICIT_VERSION = 0xA0


def _certificate(der: bytes) -> Certificate:
    _, start, _ = _read(der, 0)  # Certificate
    _, start, end = _read(der, start)  # tbsCertificate
    fields = [part for part in _parts(der, start, end) if part[0] != _EXPLICIT_VERSION]
    if len(fields) < 6:
        raise ValueError("too few fields")
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    before, after = (_time(der, *part) for part in _parts(der, *fields[3][1:]))
    algorithm, key = _parts(der, *fields[5][1:])
    _, start, end = next(_parts(der, *algorithm[1:]))
    identifier = der[start:end]
    if identifier == _EC:
        return Certificate(before, after, "EC", 0)
    if identifier != _RSA:
        return Certificate(before, after, identifier.hex(), 0)
    # The bit string begins with its count of unused bits, then RSAPublicKey ::= SEQUENCE { modulus, exponent }.
    _, start, end = _read(der, key[1] + 1)
    _, start, end = next(_parts(der, start, end))
    return Certificate(before, after, "RSA", int.from_bytes(der[start:end], "big").bit_length())


def _time(der: bytes, tag: int, start: int, end: int) -> float:
    text = der[start:end].decode("ascii", "replace")
    if tag == 0x17:  # UTCTime: two digits of the year, 50 to 99 are in the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
