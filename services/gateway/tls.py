"""TLS of the listener and of the pools: Envoy's transport sockets, and the secrets that they name. Pure.

Certificates, keys and authorities travel as secrets of their own (SDS), beside the listener and the clusters: a new
certificate is used by the next handshake, and no connection ends for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from services.gateway.table import BackendTls, Edge, ListenerTls, Pool
from services.gateway.xds_messages import message_class, parse

Json = dict[str, Any]
Files = Mapping[Path, bytes]  # the contents of everything that Table.files() names

LISTENER_CERTIFICATE = "listener/certificate"
CLIENT_AUTHORITIES = "listener/client-authorities"

# Where distributions keep the authorities that a machine trusts; the first that exists counts.
SYSTEM_AUTHORITIES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
    Path("/etc/ssl/cert.pem"),
)

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_Secret = message_class("envoy.extensions.transport_sockets.tls.v3.Secret")


def secrets(edge: Edge, files: Files, pools: Iterable[Pool] = ()) -> dict[str, Any]:
    """Every secret that the listener and the pools name, as Envoy's messages by name.

    `files` must hold what `Table.files()` names, and `check_files` must have found nothing wrong with it.
    """
    found: dict[str, Any] = {}
    if edge.tls is not None:
        _add_pair(found, LISTENER_CERTIFICATE, edge.tls.cert, edge.tls.key, files)
        if edge.tls.client_ca is not None:
            _add_authorities(found, CLIENT_AUTHORITIES, edge.tls.client_ca, files)
    for tls in (pool.tls for pool in pools):
        if tls is None:
            continue
        if tls.ca is not None:
            _add_authorities(found, _authorities_name(tls.ca), tls.ca, files)
        if tls.cert is not None and tls.key is not None:
            _add_pair(found, _pair_name(tls.cert, tls.key), tls.cert, tls.key, files)
    return found


def _add_pair(found: dict[str, Any], name: str, cert: Path, key: Path, files: Files) -> None:
    secret = _Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = files[cert]
    secret.tls_certificate.private_key.inline_bytes = files[key]
    found[name] = secret


def _add_authorities(found: dict[str, Any], name: str, path: Path, files: Files) -> None:
    secret = _Secret(name=name)
    secret.validation_context.trusted_ca.inline_bytes = files[path]
    found[name] = secret


# Pools that name the same files share a secret.
def _authorities_name(ca: Path) -> str:
    return f"authorities/{ca}"


def _pair_name(cert: Path, key: Path) -> str:
    return f"certificate/{cert}/{key}"


def listener_socket(tls: ListenerTls, protocols: Iterable[str] = ("h2", "http/1.1")) -> Json:
    """The transport socket of a filter chain, in Envoy's JSON form."""
    common: Json = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": list(protocols),
        "tls_certificate_sds_secret_configs": [_from_ads(LISTENER_CERTIFICATE)],
    }
    if tls.client_ca is not None:
        common["validation_context_sds_secret_config"] = _from_ads(CLIENT_AUTHORITIES)
    return {
        "name": "tls",
        "typed_config": {
            "@type": _TLS + "DownstreamTlsContext",
            "common_tls_context": common,
            "require_client_certificate": tls.client_ca is not None,
        },
    }


def pool_socket(pool: Pool) -> Any | None:
    """The transport socket of a pool's cluster as Envoy's message; None where the pool speaks plaintext.

    The instances' certificates are always verified: signed by the pool's authorities (the system's where it names
    none) and made out for `server_name`, or for the host as the configuration writes it.
    """
    if pool.tls is None:
        return None
    tls = pool.tls
    common: Json = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2"],
        "combined_validation_context": (
            {
                "default_validation_context": _expected_name(tls),
                "validation_context_sds_secret_config": _from_ads(_authorities_name(tls.ca)),
            }
            if tls.ca is not None
            else None
        ),
    }
    if tls.ca is None:
        del common["combined_validation_context"]
        common["validation_context"] = _expected_name(tls) | {
            "trusted_ca": {"filename": str(system_authorities())}
        }
    if tls.cert is not None and tls.key is not None:
        common["tls_certificate_sds_secret_configs"] = [_from_ads(_pair_name(tls.cert, tls.key))]
    context: Json = {"@type": _TLS + "UpstreamTlsContext", "common_tls_context": common}
    if tls.server_name:
        context["sni"] = tls.server_name
    else:
        context |= {"auto_host_sni": True, "auto_sni_san_validation": True}
    return parse("envoy.config.core.v3.TransportSocket", {"name": "tls", "typed_config": context})


def _expected_name(tls: BackendTls) -> Json:
    if not tls.server_name:
        return {}
    return {
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": tls.server_name}}],
    }


def system_authorities() -> Path:
    """The file of authorities that this machine trusts."""
    return next((path for path in SYSTEM_AUTHORITIES if path.exists()), SYSTEM_AUTHORITIES[0])


def _from_ads(name: str) -> Json:
    return {
        "name": name,
        "sds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "10s"},
    }
