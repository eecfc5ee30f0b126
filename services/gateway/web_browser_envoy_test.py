"""gRPC-Web and CORS in the real Envoy: requests as browsers make them."""

from __future__ import annotations

import base64
import http.client

import grpc
import pytest

from services.gateway.testing import WPAI_PATH, predict_request
from services.gateway.testing_edge import EdgeEnvoy
from services.gateway.testing_web import ORIGIN, Site, curl, running, site

PREDICT = WPAI_PATH + "Predict"
FIXTURES = (running, site)  # pytest finds them by their names


# --- gRPC-Web ---


def frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def grpc_web(
    envoy: EdgeEnvoy, message: bytes, *, text: bool, path: str = PREDICT
) -> tuple[int, dict[str, str], bytes]:
    """One call as a browser makes it. The answer's body is decoded from base64 where it is text."""
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    body = frame(message)
    connection = http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=10)
    try:
        connection.request(
            "POST",
            path,
            base64.b64encode(body) if text else body,
            {"content-type": kind, "accept": kind, "x-grpc-web": "1", "origin": ORIGIN},
        )
        reply = connection.getresponse()
        found = reply.read()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        assert headers["content-type"].startswith(kind.removesuffix("+proto"))
        if text:  # each piece is encoded on its own
            padded = found.replace(b"=", b"= ").replace(b"= = ", b"== ").split()
            found = b"".join(base64.b64decode(piece) for piece in padded)
        return reply.status, headers, found
    finally:
        connection.close()


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_browser_calls_a_model(site: Site, text: bool, size: int) -> None:
    message = predict_request("textcnn-69", bytes(size))
    status, headers, body = grpc_web(site[0], message, text=text)
    assert status == 200
    assert headers["access-control-allow-origin"] == ORIGIN
    assert body.startswith(frame(message))
    trailer = body[len(frame(message)) :]
    assert trailer[0] == 0x80
    assert b"grpc-status:0" in trailer.replace(b" ", b"")


@pytest.mark.parametrize(
    ("name", "path", "code", "said"),
    [
        ("textcnn-7", PREDICT, "5", "task 7 is not configured"),
        ("textcnn", PREDICT, "3", "does not end in a task id"),
        ("textcnn-69", "/no.such.Service/Method", "12", "has no method"),
    ],
)
def test_a_browser_reads_a_refusal(site: Site, name: str, path: str, code: str, said: str) -> None:
    status, headers, _ = grpc_web(site[0], predict_request(name), text=False, path=path)
    assert status == 200
    assert headers["grpc-status"] == code
    assert said in headers["grpc-message"]


def test_a_browser_reads_an_instances_error(site: Site) -> None:
    envoy, instance = site
    instance.status = grpc.StatusCode.FAILED_PRECONDITION
    _, headers, body = grpc_web(envoy, predict_request("m-69"), text=False)
    assert "9" in (headers.get("grpc-status"), body.partition(b"grpc-status:")[2][:1].decode())


# --- CORS ---


def preflight(envoy: EdgeEnvoy, origin: str) -> dict[str, str]:
    status, headers, _ = curl(
        envoy,
        PREDICT,
        *("--request", "OPTIONS"),
        *("--header", f"origin: {origin}"),
        *("--header", "access-control-request-method: POST"),
        *("--header", "access-control-request-headers: content-type,x-grpc-web,x-api-key"),
    )
    assert status == 200
    return headers


def test_a_page_of_a_listed_origin_may_call(site: Site) -> None:
    headers = preflight(site[0], ORIGIN)
    assert headers["access-control-allow-origin"] == ORIGIN
    assert "post" in headers["access-control-allow-methods"]
    for name in ("content-type", "x-grpc-web", "x-api-key", "authorization", "x-dl-task"):
        assert name in headers["access-control-allow-headers"]


@pytest.mark.parametrize("origin", ["https://models.example.evil", "http://models.example", "null"])
def test_a_page_of_another_origin_may_not(site: Site, origin: str) -> None:
    assert "access-control-allow-origin" not in preflight(site[0], origin)
