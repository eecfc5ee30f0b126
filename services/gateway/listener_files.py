"""Whether the files that a configuration names can be put to work: certificates, keys, lists of clients. Pure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from services.gateway import access_keys, tls_files
from services.gateway.configuration_errors import ConfigError
from services.gateway.table import Edge, Pool

Files = Mapping[Path, bytes]

_CERTIFICATE = "a PEM file with the certificate first and the intermediate ones after it"
_KEY = "a PEM file with the private key of {cert}, not encrypted"
_AUTHORITIES = "a PEM file with the authorities' certificates"
_JWKS = 'a JSON Web Key Set: {"keys": [{"kty": "RSA", ...}]}'


def check_files(edge: Edge, pools: Iterable[Pool], files: Files) -> list[ConfigError]:
    """What is wrong with the files, each named. A file that is not in `files` is not spoken of: whoever read them
    has said so."""
    found: dict[ConfigError, None] = {}  # pools may share files

    def wrong(path: Path, field: str, problem: str, expected: str) -> None:
        if problem:
            found[ConfigError(path, 0, field, problem, expected)] = None

    for cert, key in _pairs(edge, pools):
        if cert in files:
            problem = tls_files.certificate_problem(files[cert])
            wrong(cert, "certificate", problem, _CERTIFICATE)
            if not problem and key in files:
                wrong(key, "key", tls_files.key_problem(files[cert], files[key]), _KEY.format(cert=cert))
    for path in _authorities(edge, pools):
        if path in files:
            wrong(path, "authorities", tls_files.certificate_problem(files[path], own=False), _AUTHORITIES)
    for provider in edge.jwt.values():
        if provider.jwks in files:
            wrong(provider.jwks, "jwks", _jwks_problem(files[provider.jwks]), _JWKS)
    errors = list(found)
    if edge.api_keys is not None and edge.api_keys in files:
        errors += access_keys.read(files[edge.api_keys], edge.api_keys)[1]
    return errors


def warnings(edge: Edge, pools: Iterable[Pool], files: Files, now: float) -> list[str]:
    """What a person should know about files that can be used, a line each. `now` is in seconds since the epoch."""
    paths = dict.fromkeys([cert for cert, _ in _pairs(edge, pools)] + _authorities(edge, pools))
    texts = ((path, tls_files.expiry_warning(files[path], now)) for path in paths if path in files)
    return [f"{path}: {text}" for path, text in texts if text]


def mode_warnings(edge: Edge, pools: Iterable[Pool]) -> list[str]:
    """Secrets that others on this machine can read, a line each. Looks at the files' modes."""
    secret = [edge.api_keys] if edge.api_keys is not None else []
    if edge.tls is not None:
        secret.append(edge.tls.key)
    secret += dict.fromkeys(
        pool.tls.key for pool in pools if pool.tls is not None and pool.tls.key is not None
    )
    found = []
    for path in secret:
        try:
            mode = path.stat().st_mode & 0o777
        except OSError:
            continue
        if mode & 0o007:
            found.append(
                f"{path}: everybody on this machine can read it (mode {mode:04o}): chmod 0600 {path}"
            )
    return found


def _pairs(edge: Edge, pools: Iterable[Pool]) -> list[tuple[Path, Path]]:
    found = [] if edge.tls is None else [(edge.tls.cert, edge.tls.key)]
    for tls in (pool.tls for pool in pools):
        if tls is not None and tls.cert is not None and tls.key is not None:
            found.append((tls.cert, tls.key))
    return found


def _authorities(edge: Edge, pools: Iterable[Pool]) -> list[Path]:
    found = [tls.ca for tls in (pool.tls for pool in pools) if tls is not None and tls.ca is not None]
    if edge.tls is not None and edge.tls.client_ca is not None:
        found.append(edge.tls.client_ca)
    return found


def _jwks_problem(data: bytes) -> str:
    try:
        document = json.loads(data)
    except ValueError as error:
        return f"is not JSON: {error}"
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not keys:
        return "holds no keys"
    if not all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys):
        return 'holds a key without a type ("kty")'
    # Envoy passes over a key that it cannot use, and refuses the whole listener where there is no other.
    problems = [_key_problem(key) for key in keys]
    return "" if "" in problems else f"holds no key that can be used: {problems[0]}"


_KEY_FIELDS = {"RSA": ("n", "e"), "EC": ("x", "y"), "oct": ("k",), "OKP": ("x",)}
_CURVES = {"EC": ("P-256", "P-384", "P-521"), "OKP": ("Ed25519",)}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


def _key_problem(key: Mapping[str, object]) -> str:
    kind = str(key["kty"])
    if kind not in _KEY_FIELDS:
        return f"the type {kind[:20]!r} is not known"
    if kind in _CURVES and key.get("crv") not in _CURVES[kind]:
        return f'"crv" of the {kind} key is none of {", ".join(_CURVES[kind])}'
    for name in _KEY_FIELDS[kind]:
        value = key.get(name)
        if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
            return f'"{name}" of the {kind} key is missing or damaged'
    return ""


def log_problem(path: Path) -> str:
    """Why no access log can be written there, "" when one can. Looks at the disk."""
    if path.is_dir():
        return "is a directory"
    if not path.parent.is_dir():
        return f"is in a folder that is not there: {path.parent}"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return "cannot be written to by this user"
    return ""
