from __future__ import annotations

import dataclasses
import json
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from libs.balancing.endpoint import Endpoint
from services.gateway import access_keys, tls_files
from services.gateway.listener_files import check_files, log_problem, mode_warnings, warnings
from services.gateway.table import BackendTls, Edge, JwtProvider, ListenerTls, Pool
from services.gateway.testing_certificates import Identity, Key, authority, certificate, jwks

CERT, KEY, CA, KEYS, JWKS = (Path(f"/etc/{name}") for name in ("crt", "key", "ca", "keys", "jwks"))
EDGE = Edge(
    tls=ListenerTls(CERT, KEY, CA),
    api_keys=KEYS,
    jwt={"corp": JwtProvider("corp", "https://id.example", JWKS)},
)
AUTHORITY = authority()
OWN, OTHER = certificate(AUTHORITY), certificate(AUTHORITY)
GOOD = {
    CERT: OWN.pem + AUTHORITY.pem,
    KEY: OWN.key.pem,
    CA: AUTHORITY.pem,
    KEYS: b"alice 0123456789abcdef\n",
    JWKS: jwks(Key.make()),
}
# Made with openssl, since the tests' own maker knows only P-256: a certificate with an RSA key of 1024 bits, and one
# with an Ed25519 key. The private keys were thrown away.
WEAK = b"""-----BEGIN CERTIFICATE-----
MIIB/DCCAWWgAwIBAgIUOZ/Z1/gkUKqvlXcaS/2wqkMSucYwDQYJKoZIhvcNAQEL
BQAwDzENMAsGA1UEAwwEd2VhazAgFw0yNjExMjIyMjE2MTNaGA8yMDUxMDcxNDIy
MTYxM1owDzENMAsGA1UEAwwEd2VhazCBnzANBgkqhkiG9w0BAQEFAAOBjQAwgYkC
gYEAx0mRCif7Il8+oyBLWP5c3vEE8Id6cZzYzC6g1BSGsH8C+BM4gUo6SAk1l5Co
lA37dVH8UT64/Kqn5VrOFp9d34dUhr/rzsKt5fApIGwDfyveDbYus6Ljf5Bn1lw6
/UiwWBrVCx6ys4abyVfD1MEcMrdPJKKlwBYGDuS6Ygxq0AsCAwEAAaNTMFEwHQYD
VR0OBBYEFDvihuFsPWW/xStF+ENk0FMg/LfxMB8GA1UdIwQYMBaAFDvihuFsPWW/
xStF+ENk0FMg/LfxMA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQADgYEA
FXCeH1BZyPlLrvEz8vaQEN55bsD0LWQuv6OMx2oiGUOuMguAbL7R6oMieA3P5i+W
+jZV3Eit6sn9sQvz1AcN+Ke+xOILCrqb5VctaZvUzYMbjpZzsPHiAzFD75Dejtf6
XLkLuz3bHHf4vN0h7dtyGfOLetf4/805bWVpcrGMlEE=
-----END CERTIFICATE-----
"""
ED25519 = b"""-----BEGIN CERTIFICATE-----
MIIBMDCB46ADAgECAhQ104LJORw6INJ2HCd4SVOi5ZLYBzAFBgMrZXAwDTELMAkG
A1UEAwwCZWQwIBcNMjYxMTIyMjIxNjEzWhgPMjA1MTA3MTQyMjE2MTNaMA0xCzAJ
BgNVBAMMAmVkMCowBQYDK2VwAyEADmiXbrxsf+7vuDEqVuFtCdRub4JM1VU/rOea
vCauKY6jUzBRMB0GA1UdDgQWBBQC/JBjtd89pXmt6S3clatv8EWLqjAfBgNVHSME
GDAWgBQC/JBjtd89pXmt6S3clatv8EWLqjAPBgNVHRMBAf8EBTADAQH/MAUGAytl
cANBADxEe31knnUJKSRnImp/7DGXJEDQwAQNbhgTEMO6LHSCiHcV8XRjVB6mOF2n
p6ie3GSsZ9FtKkbF1lruFSwTNw8=
-----END CERTIFICATE-----
"""


def test_files_that_fit_have_nothing_wrong() -> None:
    assert check_files(EDGE, (), GOOD) == []


@pytest.mark.parametrize(
    ("path", "content", "problem"),
    [
        (CERT, b"", "holds no certificate"),
        (CERT, OWN.pem.replace(b"MII", b"AII", 1), "is damaged"),
        (CERT, OWN.pem[:120] + OWN.pem[-60:], "is damaged"),
        (CERT, WEAK, "RSA key of 1024 bits"),
        (CERT, ED25519, "neither RSA nor EC"),
        (KEY, OTHER.key.pem, "does not belong to the certificate"),
        (KEY, OWN.pem, "holds no private key"),
        (
            KEY,
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "is encrypted",
        ),
        (KEY, b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", "is damaged"),
        (CA, b"nothing", "holds no certificate"),
        (KEYS, b"# nobody\n", "there is no key"),
        (JWKS, b"{", "is not JSON"),
        (JWKS, b'{"keys": []}', "holds no keys"),
        (JWKS, b'{"keys": [{}]}', "without a type"),
        (JWKS, b"[]", "holds no keys"),
        (JWKS, b'{"keys": [{"kty": "RSA"}]}', '"n" of the RSA key is missing'),
        (
            JWKS,
            b'{"keys": [{"kty": "RSA", "n": "!", "e": "AQAB"}]}',
            '"n" of the RSA key is missing or damaged',
        ),
        (JWKS, b'{"keys": [{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}]}', "none of P-256"),
        (JWKS, b'{"keys": [{"kty": "AKP", "pub": "AA"}]}', "the type 'AKP' is not known"),
    ],
)
def test_what_is_wrong_is_said_of_the_file(path: Path, content: bytes, problem: str) -> None:
    (error,) = check_files(EDGE, (), GOOD | {path: content})
    assert error.path == path
    assert problem in error.problem
    assert "expected" in error.render()


def test_pools_are_checked_and_a_shared_file_is_named_once() -> None:
    tls = BackendTls(CA, CERT, KEY)
    pools = [Pool(name, {Endpoint("10.0.0.1", 1): 100}, tls=tls) for name in "ab"]
    errors = check_files(Edge(), pools, {CA: b"", CERT: OWN.pem, KEY: OTHER.key.pem})
    assert [error.path for error in errors] == [KEY, CA]


def test_a_file_that_was_not_read_is_somebody_elses_to_report() -> None:
    assert check_files(EDGE, (), {}) == []


def test_a_key_set_needs_one_key_that_can_be_used() -> None:
    document = json.loads(GOOD[JWKS])
    document["keys"].insert(0, {"kty": "AKP", "pub": "AA"})
    assert check_files(EDGE, (), GOOD | {JWKS: json.dumps(document).encode()}) == []


def test_where_an_access_log_can_be_written(tmp_path: Path) -> None:
    assert log_problem(tmp_path / "log") == ""
    assert log_problem(Path("/dev/null")) == ""
    assert log_problem(tmp_path) == "is a directory"
    assert "a folder that is not there" in log_problem(tmp_path / "no" / "log")


def of(day: int) -> datetime:
    return datetime(2030, 1, day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (of(1), "not valid before 2030-01-02"),
        (of(3), ""),
        (of(12), "expires on 2030-01-25"),
        (of(26), "expired on 2030-01-25"),
    ],
)
def test_a_certificates_times_are_warned_of(now: datetime, said: str) -> None:
    own = certificate(AUTHORITY, not_before=of(2), not_after=of(25))
    found = warnings(EDGE, (), GOOD | {CERT: own.pem, KEY: own.key.pem}, now.timestamp())
    assert [said in text and str(CERT) in text for text in found] == ([True] if said else [])


def test_secrets_that_everybody_can_read_are_warned_of(tmp_path: Path) -> None:
    keys, key, own = tmp_path / "keys", tmp_path / "key", tmp_path / "own"
    edge = dataclasses.replace(EDGE, tls=ListenerTls(CERT, key), api_keys=keys)
    pools = [Pool("a", {}, tls=BackendTls(CA, CERT, own))]
    for path in (keys, key, own):
        path.touch()
        path.chmod(0o600)
    assert mode_warnings(edge, pools) == []
    for path in (keys, own):
        path.chmod(0o644)
    assert mode_warnings(edge, pools) == [
        f"{path}: everybody on this machine can read it (mode 0644): chmod 0600 {path}"
        for path in (keys, own)
    ]


def test_what_is_read_of_a_certificate() -> None:
    own = certificate(AUTHORITY, not_before=of(2), not_after=of(25))
    (found,) = tls_files.certificates(own.pem)
    assert found == tls_files.Certificate(of(2).timestamp(), of(25).timestamp(), "EC", 0)
    assert [c.key_kind for c in tls_files.certificates(own.pem + b"between\n" + AUTHORITY.pem)] == [
        "EC",
        "EC",
    ]


def test_no_damage_to_a_certificate_raises_anything_else() -> None:
    der = _der(OWN)
    for at in range(len(der)):
        for value in (0, der[at] ^ 0x80, 0xFF):
            spoilt = der[:at] + bytes([value]) + der[at + 1 :]
            assert isinstance(tls_files.certificate_problem(_pem(spoilt)), str)


def _der(identity: Identity) -> bytes:
    return ssl.PEM_cert_to_DER_cert(identity.pem.decode())


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


# --- the API keys file ---


def test_clients_and_their_keys() -> None:
    text = (
        b"\xef\xbb\xbf# people\n\nalice  0123456789abcdef \r\nbob fedcba9876543210\nalice ffff456789abcdef\n"
    )
    assert access_keys.read(text, KEYS) == (
        {"0123456789abcdef": "alice", "fedcba9876543210": "bob", "ffff456789abcdef": "alice"},
        [],
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("alice", "has no key"),
        ("al/ice 0123456789abcdef", "client's name"),
        ("alice short", "5 characters"),
        ("alice " + "x" * 1025, "1025 characters"),
        ("alice 0123456789 abcdef", "spaces"),
        ("alice 0123456789äbcdef", "no header can carry"),
        ("bob 0123456789abcdef\nalice 0123456789abcdef", "gives 'alice' the key of 'bob'"),
    ],
)
def test_a_wrong_line_is_named_and_its_key_is_not(line: str, problem: str) -> None:
    _, (error,) = access_keys.read(f"# keys\n{line}\n".encode(), KEYS)
    assert error.line == 2 + line.count("\n")
    assert problem in error.problem
    assert "0123456789" not in error.render() and "short" not in error.render()
