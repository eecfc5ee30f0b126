from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from libs.balancing.endpoint import Endpoint
from services.gateway.status import Certificate
from services.gateway.status_certificates import expiries
from services.gateway.table import BackendTls, Edge, ListenerTls, Pool, Table
from services.gateway.testing_certificates import authority, certificate


def test_the_first_end_of_each_file_is_told() -> None:
    root = authority()
    soon = certificate(root, not_after=datetime(2030, 1, 1, tzinfo=UTC))
    cert, key, ca, broken = (Path(f"/etc/{name}") for name in ("cert.pem", "key.pem", "ca.pem", "broken.pem"))
    table = Table(
        {},
        {"p": Pool("p", {Endpoint("10.0.0.1", 1): 100}, tls=BackendTls(ca=ca, cert=broken, key=key))},
        Edge(tls=ListenerTls(cert, key)),
    )
    files = {cert: certificate(root).pem + soon.pem, ca: root.pem, broken: b"nothing of the kind"}
    found = expiries(table, files)
    assert [c.file for c in found] == ["/etc/ca.pem", "/etc/cert.pem"]
    assert found[1] == Certificate("/etc/cert.pem", datetime(2030, 1, 1, tzinfo=UTC).timestamp())
    assert expiries(Table({}), {}) == ()
