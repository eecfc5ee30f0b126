from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from libs.balancing.endpoint import Endpoint
from services.gateway import render_command
from services.gateway.check import check
from services.gateway.configuration import Loaded, Sources, load
from services.gateway.listener import ListenerOptions
from services.gateway.render import HIDDEN, one_task, render, render_static

SECRETS = ("0123456789abcdef", "PRIVATE MATTER")
FILES = {
    "gateway.toml": """
[defaults]
tls = { ca = "ca.pem", cert = "own.pem", key = "own.key", server_name = "m" }
[listener]
tls = { cert = "public.pem", key = "public.key" }
[auth]
api_keys = "keys.txt"
[pools.b]
endpoints = ["models.svc:2"]
[pools.a]
endpoints = ["10.0.0.1:1"]
fallback = "b"
[tasks.69]
pool = "a"
clients = ["search"]
[tasks.7]
endpoints = ["10.0.0.2:1"]
[tracing]
collector = "otel.svc:4317"
""",
    "keys.txt": f"search {SECRETS[0]}\n",
    "jwks.json": "{}",
}
OPTIONS = ListenerOptions("0.0.0.0", 8080)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    monkeypatch.setattr("services.gateway.configuration.check_files", lambda *_: [])
    return load(
        Sources(config=Path("/etc/gateway/gateway.toml")),
        lambda path: FILES.get(path.name, SECRETS[1]).encode(),
    )


def names(found: list[dict[str, Any]], key: str = "name") -> list[str]:
    return [item[key] for item in found]


def test_every_resource_is_there_in_order_and_the_same_each_time(loaded: Loaded) -> None:
    found = render(loaded.table, loaded.files, OPTIONS)
    assert names(found["clusters"]) == ["a", "b", "otel-collector", "task-7"]
    assert names(found["endpoints"], "cluster_name") == ["a", "b", "task-7"]
    assert names(found["listeners"]) == ["public"]
    assert [group["priority"] for group in found["endpoints"][0]["endpoints"] if "priority" in group] == [1]
    assert json.dumps(found) == json.dumps(render(loaded.table, loaded.files, OPTIONS))


def test_nothing_secret_is_shown(loaded: Loaded) -> None:
    for found in (
        render(loaded.table, loaded.files, OPTIONS),
        render_static(loaded.table, loaded.files, OPTIONS, Endpoint("127.0.0.1", 9901)),
    ):
        text = json.dumps(found)
        assert not [secret for secret in SECRETS if secret in text]
        assert HIDDEN in text
        assert "/etc/gateway/own.key" in text
        assert "/etc/gateway/public.key" in text


def test_a_static_bootstrap_asks_nobody(loaded: Loaded) -> None:
    found = render_static(loaded.table, loaded.files, OPTIONS, Endpoint("127.0.0.1", 9901))
    text = json.dumps(found)
    assert '"ads"' not in text
    assert '"EDS"' not in text
    assert "models.svc" in text


def test_one_task_needs_only_its_pools(loaded: Loaded) -> None:
    table = one_task(loaded.table, 69)
    assert table.tasks.keys() == {69}
    assert table.pools.keys() == {"a", "b"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("69=100,10.0.0.1:1\n70=1,a:1\n")
    assert render_command.run(Sources(nodes=nodes), OPTIONS, task=70) == 0
    assert names(json.loads(capsys.readouterr().out)["clusters"]) == ["task-70"]
    assert render_command.run(Sources(nodes=nodes), OPTIONS, task=6) == 2
    assert "task 6 is not in" in capsys.readouterr().err


def test_check_says_what_is_there_and_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('[pools.spare]\nendpoints = ["a:1"]\n[tasks.1]\nendpoints = ["b:1", "c:1"]\n')
    assert check(Sources(config=config)) == 0
    out = capsys.readouterr().out
    assert "note: pool spare: no task goes there" in out
    assert f"{config}: 1 tasks, 2 pools, 3 instances, no errors" in out
    config.write_text("[tasks.1]\nendpoint = 1\n")
    assert check(Sources(config=config)) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in err] == [f"{config}:1", f"{config}:2"]
    assert "did you mean endpoints?" in err[1]
