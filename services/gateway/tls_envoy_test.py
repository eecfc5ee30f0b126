"""TLS and mTLS in the real Envoy: who gets in, that certificates change under load, and TLS to instances."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from libs.balancing.endpoint import Endpoint
from services.gateway.table import BackendTls, Edge, ListenerTls, Pool, Table
from services.gateway.testing import WPAI_PATH, Backend, Load, call, predict_request
from services.gateway.testing_certificates import Identity, authority, certificate
from services.gateway.testing_edge import EdgeEnvoy, table_of, task_of

PREDICT = WPAI_PATH + "Predict"
CERT, KEY, CA = Path("/server.crt"), Path("/server.key"), Path("/callers.crt")
AUTHORITY = authority()


def files_of(identity: Identity, callers: Identity | None = None) -> dict[Path, bytes]:
    found = {CERT: identity.pem, KEY: identity.key.pem}
    if callers is not None:
        found[CA] = callers.pem
    return found


def trusting(ca: Identity, own: Identity | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        ca.pem, own.key.pem if own is not None else None, own.pem if own is not None else None
    )


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend() as found:
        yield found


@pytest.fixture(scope="module")
def envoy(backend: Backend) -> Iterator[EdgeEnvoy]:
    table = table_of(backend.address, task_of(69), edge=Edge(tls=ListenerTls(CERT, KEY)))
    with EdgeEnvoy(table, files_of(certificate(AUTHORITY))) as found:
        yield found


def shown_certificate(envoy: EdgeEnvoy, *, version: ssl.TLSVersion | None = None) -> tuple[bytes, str]:
    """The certificate that a new connection is shown, and the protocol that ALPN chose."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", envoy.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        der = secure.getpeercert(binary_form=True)
        assert der is not None
        return der, secure.selected_alpn_protocol() or ""


def test_a_call_over_tls(envoy: EdgeEnvoy) -> None:
    with envoy.channel(trusting(AUTHORITY)) as channel:
        answer = call(channel, PREDICT, predict_request("textcnn-69"))
    assert answer.code == grpc.StatusCode.OK


def test_plaintext_and_strangers_do_not_get_in(envoy: EdgeEnvoy) -> None:
    for credentials in (None, trusting(authority("somebody else"))):
        with envoy.channel(credentials) as channel:
            answer = call(channel, PREDICT, predict_request("textcnn-69"), timeout=5)
        assert answer.code == grpc.StatusCode.UNAVAILABLE


def test_http2_is_chosen_and_old_tls_is_refused(envoy: EdgeEnvoy) -> None:
    assert shown_certificate(envoy, version=ssl.TLSVersion.TLSv1_2)[1] == "h2"
    assert shown_certificate(envoy, version=ssl.TLSVersion.TLSv1_3)[1] == "h2"
    with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, OSError)):
        shown_certificate(envoy, version=ssl.TLSVersion.TLSv1_1)


def test_no_call_is_lost_when_the_certificate_changes(envoy: EdgeEnvoy) -> None:
    fresh = [certificate(AUTHORITY) for _ in range(20)]
    body = predict_request("textcnn-69")
    done = threading.Event()

    def new_connections() -> None:
        """Callers that come and go: every handshake must find a certificate."""
        for number in itertools.count():
            if done.is_set():
                return
            option = ("grpc.use_local_subchannel_pool", 1), ("test.number", number)
            with envoy.channel(trusting(AUTHORITY), *option) as channel:
                outcomes.append(call(channel, PREDICT, body, timeout=10).code)

    outcomes: list[grpc.StatusCode] = []
    listeners = envoy.admin("/stats?filter=listener_manager.listener_(modified|in_place_updated)")
    comer = threading.Thread(target=new_connections)
    with envoy.channel(trusting(AUTHORITY)) as lasting, Load(lambda: call(lasting, PREDICT, body)) as load:
        comer.start()
        for identity in fresh:
            envoy.update(envoy.table, files_of(identity))
            expected = ssl.PEM_cert_to_DER_cert(identity.pem.decode())
            assert shown_certificate(envoy)[0] == expected
        done.set()
        comer.join(20)
    assert load.failures() == [] and len(load.answers) > 20
    assert set(outcomes) == {grpc.StatusCode.OK}
    # By a secret alone: no connection had to end.
    assert envoy.admin("/stats?filter=listener_manager.listener_(modified|in_place_updated)") == listeners


def test_callers_must_show_a_certificate_when_asked_to(backend: Backend) -> None:
    callers, edge = authority("callers"), Edge(tls=ListenerTls(CERT, KEY, CA))
    good, bad = certificate(callers, "frontend"), certificate(authority("others"), "frontend")
    body = predict_request("textcnn-69")
    with EdgeEnvoy(
        table_of(backend.address, task_of(69), edge=edge), files_of(certificate(AUTHORITY), callers)
    ) as envoy:
        for own, code in (
            (good, grpc.StatusCode.OK),
            (bad, grpc.StatusCode.UNAVAILABLE),
            (None, grpc.StatusCode.UNAVAILABLE),
        ):
            with envoy.channel(trusting(AUTHORITY, own)) as channel:
                assert call(channel, PREDICT, body).code == code
        # Another authority for callers, from one handshake to the next.
        others = authority("new callers")
        envoy.update(envoy.table, files_of(certificate(AUTHORITY), others))
        for own, code in (
            (good, grpc.StatusCode.UNAVAILABLE),
            (certificate(others, "frontend"), grpc.StatusCode.OK),
        ):
            with envoy.channel(trusting(AUTHORITY, own), ("grpc.use_local_subchannel_pool", 1)) as channel:
                assert call(channel, PREDICT, body).code == code


@contextlib.contextmanager
def tls_instance(own: Identity, callers: Identity | None) -> Iterator[int]:
    """An instance that echoes over TLS. Yields its port."""

    class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_unary_rpc_method_handler(lambda body, context: body)

    credentials = grpc.ssl_server_credentials(
        [(own.key.pem, own.pem)], callers.pem if callers is not None else None, callers is not None
    )
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Echo()])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_instances_are_verified_and_shown_our_certificate() -> None:
    ca, cert, key = Path("/ca"), Path("/gateway.crt"), Path("/gateway.key")
    inside, gateway = authority("instances"), authority("gateways")
    own = certificate(gateway, "gateway")
    files = {ca: inside.pem, cert: own.pem, key: own.key.pem}
    with tls_instance(certificate(inside, "model.example"), gateway) as port:
        right = BackendTls(ca, cert, key, "model.example")
        pool = Pool("task-69", {Endpoint("127.0.0.1", port): 100}, tls=right)
        table = Table({69: task_of(69)}, {"task-69": pool})
        with EdgeEnvoy(table, files) as envoy, envoy.channel() as channel:
            body = predict_request("textcnn-69")
            assert call(channel, PREDICT, body).code == grpc.StatusCode.OK
            for wrong, why in (
                (dataclasses.replace(right, server_name="other.example"), "certificate"),
                (BackendTls(ca, server_name="model.example"), ""),  # shows no certificate
            ):
                replaced = dataclasses.replace(pool, tls=wrong)
                envoy.update(Table(table.tasks, {"task-69": replaced}))
                answer = call(channel, PREDICT, body)
                assert answer.code == grpc.StatusCode.UNAVAILABLE
                assert why in answer.message.lower()
