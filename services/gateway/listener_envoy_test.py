"""The listener in the real Envoy: edits under load, connection limits, and where each protocol is served."""

from __future__ import annotations

import dataclasses
import http.client
import socket
import threading
import time

import grpc

from services.gateway.table import AccessLog, Edge, LogWhen, Table
from services.gateway.testing import WPAI_PATH, Answer, Backend, Load, call, eventually, predict_request
from services.gateway.testing_edge import EdgeEnvoy, pool_of, table_of, task_of

PREDICT = WPAI_PATH + "Predict"
# Callers take a call that never left them to the next connection, as every gRPC library does unless told otherwise.
USUAL = ("grpc.enable_retries", 1)
APART = ("grpc.use_local_subchannel_pool", 1)


def with_edge(table: Table, edge: Edge) -> Table:
    return dataclasses.replace(table, edge=edge)


def test_an_edit_of_the_listener_loses_no_call() -> None:
    answers: list[Answer] = []
    with Backend() as quick, Backend() as slow:
        slow.delay_s = 10.0  # longer than all of the edits take
        table = table_of(quick.address, task_of(69))
        table = Table(
            {**table.tasks, 70: task_of(70, timeout_ms=20_000)},
            {**table.pools, "task-70": pool_of(70, slow.address)},
        )
        # Other filter chains, and now and then other listener filters, for which Envoy makes a whole new listener.
        edits = [
            Edge(web=number % 5 != 0, access_log=AccessLog("/dev/null", LogWhen.ALL, 1 + number))
            for number in range(20)
        ]
        with EdgeEnvoy(table) as envoy, envoy.channel(None, USUAL) as channel:
            with envoy.channel(None, APART) as lasting:

                def long_call() -> None:
                    answers.append(call(lasting, PREDICT, predict_request("m-70"), timeout=20))

                callers = [threading.Thread(target=long_call) for _ in range(3)]
                for caller in callers:
                    caller.start()
                eventually(lambda: len(slow.calls) == 3, "the long calls are in flight")
                with Load(lambda: call(channel, PREDICT, predict_request("m-69"))) as load:
                    for edge in edits:
                        envoy.update(with_edge(table, edge))
                        time.sleep(0.1)
                assert not answers  # in flight still, on the connection of the first listener
                for caller in callers:
                    caller.join(20)
            changes = envoy.admin("/stats?filter=listener_manager.listener_modified")
    assert changes.strip().endswith(": 20")
    assert load.failures() == [] and len(load.answers) > 50
    assert [answer.code for answer in answers] == [grpc.StatusCode.OK] * 3


def open_connections(port: int, count: int) -> list[socket.socket]:
    """Connections that are still open after the other side had time to close them."""
    tried = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), 5)
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
        )  # an empty SETTINGS
        connection.settimeout(5)
        tried.append(connection)
    alive = []
    for connection in tried:
        try:
            received = connection.recv(9)  # the head of Envoy's SETTINGS
        except OSError:
            received = b""
        if received:
            alive.append(connection)
        else:
            connection.close()
    return alive


def test_connections_are_limited_and_the_limit_follows_the_configuration() -> None:
    with Backend() as backend:
        table = table_of(backend.address, task_of(69), edge=Edge(max_connections=10))
        with EdgeEnvoy(table) as envoy:
            first = open_connections(envoy.port, 15)
            assert len(first) == 10
            envoy.update(with_edge(table, Edge(max_connections=20)))
            second = open_connections(envoy.port, 15)
            assert len(second) == 10
            for connection in [*first, *second]:
                connection.close()
            with envoy.channel() as channel:
                wait = time.monotonic() + 10
                while call(channel, PREDICT, predict_request("m-69")).code != grpc.StatusCode.OK:
                    assert time.monotonic() < wait, "no room though every connection has gone"


def status_of(envoy: EdgeEnvoy, path: str, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=5)
    try:
        connection.request("POST", path, "{}", headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def test_without_the_web_only_grpc_is_spoken() -> None:
    with Backend() as backend:
        table = table_of(
            backend.address, task_of(69), edge=Edge(web=False, cors_origins=("https://a.example",))
        )
        with EdgeEnvoy(table) as envoy, envoy.channel() as channel:
            assert call(channel, PREDICT, predict_request("m-69")).code == grpc.StatusCode.OK
            for kind in ("application/json", "application/grpc-web", "text/plain"):
                status, text = status_of(envoy, PREDICT, {"content-type": kind})
                assert status == 415
                assert "this port speaks gRPC" in text


def test_a_connection_that_says_nothing_is_closed() -> None:
    """The first bytes tell which filter chain serves a connection: one without any must not wait for ever."""
    with (
        Backend() as backend,
        EdgeEnvoy(table_of(backend.address, task_of(69))) as envoy,
        socket.create_connection(("127.0.0.1", envoy.port), 5) as silent,
    ):
        silent.settimeout(20)
        started = time.monotonic()
        assert silent.recv(1) == b""
        assert 5 < time.monotonic() - started < 15
