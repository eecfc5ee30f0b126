"""TLS towards the instances as a gateway.toml asks for it: names, authorities, and stand-ins that have it otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from services.gateway.testing import Backend, GatewayProcess, eventually
from services.gateway.testing_certificates import Identity, authority, certificate

pytestmark = pytest.mark.timeout(60)

INSIDE, OUTSIDE = authority("instances"), authority("others")


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if str(details.method).startswith("/grpc.health."):
            return None
        return grpc.unary_unary_rpc_method_handler(lambda body, context: body)


@contextlib.contextmanager
def instance(own: Identity) -> Iterator[int]:
    """An instance that echoes over TLS. Yields its port."""
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[_Echo()])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(own.key.pem, own.pem)]))
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_instances_prove_the_name_that_they_are_called_by(tmp_path: Path) -> None:
    (tmp_path / "inside.pem").write_bytes(INSIDE.pem)
    (tmp_path / "outside.pem").write_bytes(OUTSIDE.pem)
    with (
        instance(certificate(INSIDE, "localhost")) as right,
        instance(certificate(INSIDE, "other.example")) as other,
        Backend() as plain,
    ):
        config = tmp_path / "gateway.toml"
        config.write_text(
            f"""
[defaults]
timeout_ms = 5000
[tasks.1]
endpoints = ["localhost:{right}"]
tls = {{ ca = "inside.pem" }}
[tasks.2]
endpoints = ["localhost:{other}"]
tls = {{ ca = "inside.pem" }}
[tasks.3]
endpoints = ["127.0.0.1:{other}"]
tls = {{ ca = "inside.pem", server_name = "other.example" }}
[tasks.4]
endpoints = ["localhost:{right}"]
tls = {{ ca = "outside.pem" }}
[tasks.5]
endpoints = ["{plain.address}"]
tls = {{ ca = "inside.pem", server_name = "localhost" }}
[tasks.6]
endpoints = ["127.0.0.1:{right}"]
[pools.plain]
endpoints = ["{plain.address}"]
[pools.six]
endpoints = ["localhost:{right}"]
tls = {{ ca = "outside.pem" }}
fallback = "plain"
[pools.seven]
endpoints = ["127.0.0.1:{other}"]
tls = {{ ca = "outside.pem", server_name = "other.example" }}
fallback = "right"
[pools.right]
endpoints = ["localhost:{right}"]
tls = {{ ca = "inside.pem" }}
[tasks.7]
pool = "six"
[tasks.8]
pool = "seven"
"""
        )
        with GatewayProcess(config) as running:
            for task in (1, 3):
                answer = running.predict(f"a-{task}")
                assert answer.code == grpc.StatusCode.OK, answer
            for task in (2, 4):
                answer = running.predict(f"a-{task}")
                assert answer.code == grpc.StatusCode.UNAVAILABLE
                assert "CERTIFICATE_VERIFY_FAILED" in answer.message, answer
            for task in (5, 6):  # one of the two sides speaks no TLS
                assert running.predict(f"a-{task}").code == grpc.StatusCode.UNAVAILABLE
            # A pool that is not trusted is not healthy, and who stands in for it is spoken to in its own way.
            for task, address in ((7, plain.address), (8, f"127.0.0.1:{right}")):
                eventually(lambda t=task: running.predict(f"a-{t}").code == grpc.StatusCode.OK, f"{task}")  # type: ignore[misc]
                assert running.predict(f"a-{task}").metadata["x-dl-instance"] == address
            (tmp_path / "outside.pem").write_bytes(INSIDE.pem)
            eventually(lambda: running.predict("a-4").code == grpc.StatusCode.OK, "trusted without a restart")
            (tmp_path / "outside.pem").write_bytes(b"nothing")
            eventually(lambda: "outside.pem" in running.log, "the edit is refused")
            assert running.predict("a-4").code == grpc.StatusCode.OK
