from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.gateway import explain_command
from services.gateway.configuration import Sources, load
from services.gateway.explain import NoAnswerError, Question, explain, find_method, task_of_name
from services.gateway.explain_text import text
from services.gateway.methods import KSERVE, PREDICTION, WPAI
from services.gateway.table import Table

TOML = """
[pools.gpu]
endpoints = ["10.0.0.7:8500", { address = "gpu.svc:8500", weight = 50 }, "gone.svc:1"]
policy = "peak_ewma"
fallback = ["10.9.0.1:1"]
tls = { ca = "ca.pem", server_name = "models" }
[tasks.69]
pool = "gpu"
timeout_ms = 200
retries = 2
max_qps = 2000
burst = 10
clients = ["search"]
canary = { endpoints = ["10.0.0.9:1"], percent = 5 }
shadow = { endpoints = ["10.0.0.8:1"], percent = 0.5 }
[tasks.70]
endpoints = ["10.0.0.9:1"]
retries = 0
[auth]
api_keys = "keys.txt"
"""
ADDRESSES = {"gpu.svc": ["10.1.0.1", "10.1.0.2"]}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr("services.gateway.configuration.check_files", lambda *_: [])
    files = {"gateway.toml": TOML, "keys.txt": "search 0123456789abcdef\n", "ca.pem": ""}
    return load(Sources(config=Path("gateway.toml")), lambda path: files[path.name].encode()).table


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("textcnn-69", 69),
        ("text-cnn-0069", 69),
        ("69", 69),
        ("-2147483647", 2147483647),
        ("textcnn69", None),
        ("textcnn", None),
        ("a-", None),
        ("a-0", None),
        ("a-6.9", None),
        ("a-2147483648", None),
        ("a-٦", None),
        ("", None),
    ],
)
def test_the_task_is_read_from_a_name_as_the_filter_does(name: str, task: int | None) -> None:
    assert task_of_name(name) == task


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("Predict", f"/{WPAI}/Predict"),
        ("PredictionService/Predict", f"/{PREDICTION}/Predict"),
        (f"/{PREDICTION}/Predict", f"/{PREDICTION}/Predict"),
        ("ModelInfer", f"/{KSERVE}/ModelInfer"),
    ],
)
def test_a_method_is_found_by_the_end_of_its_path(asked: str, path: str) -> None:
    assert find_method(asked).path == path


def test_the_whole_way_of_a_call(table: Table) -> None:
    found = explain(table, Question(model="textcnn-69", method="Predict"), ADDRESSES)
    assert found["task"] == 69
    assert found["how"] == "the digits after the last '-' of the message's model_spec.name"
    assert found["method"]["instance_path"] == f"/{PREDICTION}/Predict"
    assert [(p["name"], p["role"], p["percent"]) for p in found["pools"]] == [
        ("gpu", "main", 95),
        ("task-69-canary", "canary", 5),
        ("task-69-shadow", "shadow", 0.5),
    ]
    gpu = found["pools"][0]
    assert [(i["address"], i["names"], i["weight"], i["weight_share"]) for i in gpu["instances"]] == [
        ("10.0.0.7:8500", [], 100, 0.5),
        ("10.1.0.1:8500", ["gpu.svc:8500"], 50, 0.25),
        ("10.1.0.2:8500", ["gpu.svc:8500"], 50, 0.25),
        ("10.9.0.1:1", [], 100, 0.0),
    ]
    assert gpu["unresolved"] == ["gone.svc"]
    shown = text(found)
    for line in (
        "written at  gateway.toml:7",
        "200 ms, or the caller's own",
        "95 % to gpu; 5 % to task-69-canary; 0.5 % copied to task-69-shadow",
        "2000 calls a second, 10 at once",
        "have to show the API key of search",
        "pool gpu (95 %): peak_ewma; auto checks;",
        "TLS to models; falls back to dl-gpu-fallback",
        "10.1.0.1:8500 (gpu.svc:8500)  weight 50   25.0 % by weight",
        "waits in dl-gpu-fallback",
        "gone.svc: has no address",
    ):
        assert line in shown, shown


def test_a_task_by_its_id(table: Table) -> None:
    found = explain(table, Question(task=70, method="PytorchPredict"), {})
    assert found["how"] == 'meta.tags["taskId"] of the message'
    shown = text(found)
    assert "retries     none" in shown
    assert "callers     anybody" in shown


def test_a_call_that_the_gateway_answers(table: Table) -> None:
    found = explain(table, Question(task=1, method="Health/Check"), {})
    assert text(found) == "no task: the gateway itself answers\n  called as   /grpc.health.v1.Health/Check"


@pytest.mark.parametrize(
    ("question", "says", "hint"),
    [
        (Question(model="textcnn"), "INVALID_ARGUMENT: the name 'textcnn'", "like textcnn-69"),
        (Question(model="textcnn-96"), "NOT_FOUND: task 96 is not in the configuration", "69"),
        (Question(task=7), "NOT_FOUND: task 7", "did you mean 70?"),
        (
            Question(task=69, method="Predct"),
            "UNIMPLEMENTED: there is no method 'Predct'",
            "did you mean Predict?",
        ),
    ],
)
def test_a_call_that_would_be_refused(table: Table, question: Question, says: str, hint: str) -> None:
    with pytest.raises(NoAnswerError) as refused:
        explain(table, question, ADDRESSES)
    assert str(refused.value).startswith(says)
    assert hint in refused.value.hint


def test_a_running_gateway_is_believed_about_its_instances(table: Table) -> None:
    instance = {"address": "10.1.0.1:8500", "from": "", "weight": 7, "full_weight": 100, "health": "ejected"}
    instance |= {"in_flight": 3, "rate": 5.0, "share": 0.25, "requests": 9, "errors": 1}
    pools = [{"role": "main", "instances": [instance]}]
    found = explain(table, Question(task=69), ADDRESSES, {"tasks": {"69": {"pools": pools}}})
    assert found["pools"][0]["instances"] == [
        {"address": "10.1.0.1:8500", "names": ["gpu.svc:8500"], "from": "", "weight": 7}
        | {"health": "ejected", "in_flight": 3, "rate": 5.0, "share": 0.25}
    ]
    assert "10.1.0.1:8500 (gpu.svc:8500)  weight 7  25.0 % of the calls now  ejected  3 in flight" in text(
        found
    )
    with pytest.raises(NoAnswerError, match="does not know task 70"):
        explain(table, Question(task=70), ADDRESSES, {"tasks": {"69": {"pools": pools}}})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("69=100,localhost:8500\n")
    sources = Sources(nodes=nodes)
    assert explain_command.run(sources, Question(model="a-69"), as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pools"][0]["instances"][0]["names"] == ["localhost:8500"]
    assert explain_command.run(sources, Question(model="a")) == 1
    assert capsys.readouterr().out.startswith("refused: INVALID_ARGUMENT")
    assert explain_command.run(sources, Question(task=69), admin="127.0.0.1:9") == 2
    assert "give the address of --admin" in capsys.readouterr().err
    nodes.write_text("69=100,localhost\n")
    assert explain_command.run(sources, Question(task=69)) == 2
    assert f"{nodes}:1: endpoint 1: 'localhost' has no port" in capsys.readouterr().err
