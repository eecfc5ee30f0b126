"""The part of `gateway.toml` that holds for every caller: [listener], [auth], [access_log], [tracing]. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from libs.balancing.endpoint import Endpoint
from services.gateway.configfile_section import Section, absolute
from services.gateway.table import AccessLog, Edge, JwtProvider, ListenerTls, LogWhen, Tracing

MAX_CONNECTIONS = 10_000_000
STDOUT = "-"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.*-]+(:\d{1,5})?")


def read_edge(top: Section) -> Edge:
    """Everything about the callers; the silent parts have their defaults."""
    edge = Edge()
    listener, auth = top.section("listener"), top.section("auth")
    tls, web, origins, connections = edge.tls, edge.web, edge.cors_origins, edge.max_connections
    if listener is not None:
        tls = _listener_tls(listener)
        connections = listener.whole("max_connections", 1, MAX_CONNECTIONS, "connections") or connections
        said = listener.flag("web")
        web = web if said is None else said
        origins = _origins(listener, web)
        listener.finish()
    api_keys: Path | None = None
    jwt: Mapping[str, JwtProvider] = {}
    if auth is not None:
        api_keys = auth.file("api_keys")
        jwt = _providers(auth)
        auth.finish()
    return Edge(
        tls=tls,
        api_keys=api_keys,
        jwt=jwt,
        web=web,
        cors_origins=origins,
        access_log=_access_log(top),
        tracing=_tracing(top),
        max_connections=connections,
    )


def _listener_tls(listener: Section) -> ListenerTls | None:
    section = listener.section("tls", '{ cert = "cert.pem", key = "key.pem" }')
    if section is None:
        return None
    cert, key, client_ca = section.file("cert"), section.file("key"), section.file("client_ca")
    for name in ("cert", "key"):
        if not section.says(name):
            section.errors.add(section.keys, f"has no {name}", 'cert = "cert.pem" and key = "key.pem"')
    section.finish()
    return None if cert is None or key is None else ListenerTls(cert, key, client_ca)


def _origins(listener: Section, web: bool) -> tuple[str, ...]:
    origins = listener.texts("cors_origins", 'a list of origins: ["https://shop.example"]') or ()
    for index, origin in enumerate(origins):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            listener.errors.add(
                (*listener.keys, "cors_origins", index),
                f"is {origin[:60]!r}",
                'scheme://host or scheme://host:port, or "*" for every page',
                "an origin has no path and no slash at its end",
            )
    if origins and not web:
        listener.errors.add((*listener.keys, "cors_origins"), "has no effect", "web = true beside it")
    return origins


def _providers(auth: Section) -> Mapping[str, JwtProvider]:
    found: dict[str, JwtProvider] = {}
    for name, section in auth.sections("jwt"):
        if not _NAME.fullmatch(name):
            section.errors.add(
                section.keys,
                f"{name[:60]!r} is not a provider's name",
                "1 to 63 letters, digits, '-' and '_'",
            )
        issuer = section.text("issuer", "what the tokens' iss says")
        jwks = section.file("jwks")
        audiences = section.texts("audiences", "a list of what the tokens' aud may say") or ()
        for key, remedy in (("issuer", 'issuer = "https://login.example"'), ("jwks", 'jwks = "jwks.json"')):
            if not section.says(key):
                section.errors.add(section.keys, f"has no {key}", remedy)
        section.finish()
        found[name] = JwtProvider(name, issuer or "", jwks or Path(), audiences)
    return found


def _access_log(top: Section) -> AccessLog:
    section = top.section("access_log")
    if section is None:
        return AccessLog()
    path = section.text("path", f'the path of a file, or "{STDOUT}" for standard output') or STDOUT
    when = section.choice("when", LogWhen) or LogWhen.ALL
    percent = section.percent("sample_percent")
    section.finish()
    return AccessLog(
        path if path == STDOUT else str(absolute(path, section.errors.path)),
        when,
        100.0 if percent is None else percent,
    )


def _tracing(top: Section) -> Tracing | None:
    section = top.section("tracing")
    if section is None:
        return None
    collector = section.endpoint("collector")
    if not section.says("collector"):
        section.errors.add(section.keys, "has no collector", 'collector = "host:4317"')
    percent = section.percent("sample_percent")
    name = section.text("service_name", "the name that the spans carry")
    section.finish()
    defaults = Tracing(collector or Endpoint("localhost", 4317))
    return Tracing(
        defaults.collector,
        defaults.sample_percent if percent is None else percent,
        name or defaults.service_name,
    )
