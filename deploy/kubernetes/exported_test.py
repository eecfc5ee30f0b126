"""What the alerts and the dashboard ask for is what a gateway and a worker export: both run here."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.kubernetes import queries
from examples.quickstart.processes import Processes

TASK = 111
FEATURES = 138
# The build places the PEXes in the working directory; outside Pants they are in dist.
PEXES = Path(os.environ.get("PEXES", "."))
MODEL = Path(os.environ.get("MODELS", "examples/torch/models")) / "mmoe"
METHOD = "com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineService/PytorchPredict"
SHOWN_S = 30.0  # load reports and samples are seconds behind
# What Prometheus itself adds to what it reads.
TARGET = {"pod", "namespace", "job"}
# By their type alone until something of the kind has happened.
RARE = {"dl_gateway_ejections_total", "serving_queue_dropped_total"}

Exported = dict[str, set[str]]


def fetch(url: str, body: object = None, ca: Path | None = None) -> str:
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if ca is not None:
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(ca))))
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.build_opener(*handlers).open(request, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def samples(page: str) -> Exported:
    """The labels of each metric of a page, by the names of its samples; of a type without samples, none."""
    found: Exported = {name: set() for name in re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE)}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", page, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def certificate(folder: Path) -> tuple[Path, Path]:
    """One for 127.0.0.1 that signs itself, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    folder = tmp_path_factory.mktemp("exported")
    cert, key = certificate(folder)
    shutil.copytree(MODEL, folder / "mmoe" / "1")
    with Processes(PEXES.absolute(), folder / "logs") as processes:
        any_port = ("--host", "127.0.0.1", "--port", "0")
        worker = processes.start(
            "worker", "torch-worker-cpu", "serve", "--model-dir", str(folder / "mmoe"), *any_port
        ).wait_ready()
        (folder / "gateway.toml").write_text(
            f'[listener]\ntls = {{ cert = "{cert}", key = "{key}" }}\n'
            f'[tasks.{TASK}]\ntimeout_ms = 5000\nendpoints = ["{worker}"]\n'
            '[tasks.112]\nendpoints = ["127.0.0.1:1"]\n'
        )
        gateway = processes.start(
            "gateway", "gateway", "serve", "--config", str(folder / "gateway.toml"), "--listen", "127.0.0.1:0",
            "--admin", "127.0.0.1:0",
        )  # fmt: skip
        address = gateway.wait_ready()
        tensor = {"shape": [1, FEATURES], "values": [0.0] * FEATURES}
        request = {"meta": {"tags": {"taskId": TASK}}, "data": {"tensor": tensor}}
        with pytest.raises(urllib.error.HTTPError):
            fetch(f"https://{address}/{METHOD}", {"meta": {"tags": {"taskId": 112}}}, cert)
        (port,) = re.findall(r"admin on http://127\.0\.0\.1:(\d+)", gateway.log.read_text())
        end = time.monotonic() + SHOWN_S
        while "dl_gateway_instance_calls_total{" not in (page := fetch(f"http://127.0.0.1:{port}/metrics")):
            assert time.monotonic() < end, page
            fetch(
                f"https://{address}/{METHOD}", request, cert
            )  # the first second of a new pool is not reported
            time.sleep(0.2)
        yield samples(page + fetch(f"http://{worker}/metrics"))


def test_every_metric_is_exported_with_the_labels_that_are_asked_for(exported: Exported) -> None:
    asked = [use for query in queries.queries() for use in queries.uses(query)]
    missing = {use.metric for use in asked} - exported.keys()
    assert not missing
    for use in asked:
        if exported[use.metric] or use.metric not in RARE:
            assert use.matched.keys() <= exported[use.metric] | TARGET, use.said


def test_every_label_that_is_grouped_by_is_exported(exported: Exported) -> None:
    for query in queries.queries():
        labels = {label for use in queries.uses(query) for label in exported[use.metric]}
        if not RARE & {use.metric for use in queries.uses(query)}:
            # count_values makes a label of its own
            made = set(re.findall(r'count_values\("(\w+)"', query))
            assert queries.grouped(query) <= labels | TARGET | made, query
