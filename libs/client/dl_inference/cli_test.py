from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dl_inference.cli import main
from dl_inference.testing import Backend, backend


@pytest.fixture
def server() -> Iterator[Backend]:
    with backend() as told:
        yield told


def run(server: Backend | None, *arguments: str, stdin: str | None = None) -> Result:
    address = ["--address", server.address] if server else []
    return CliRunner().invoke(main, [*address, *arguments], input=stdin)


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_tensorflow_from_json_npz_and_stdin(server: Backend, tmp_path: Path) -> None:
    data = '{"x": [[1.5]], "n": {"dtype": "int8", "data": [1]}, "s": ["\\u4f60"]}'
    assert answer(run(server, "predict", "--model", "m-1", "--data", data)) == {
        "x": [[1.5]],
        "n": [1],
        "s": ["你"],
    }
    assert answer(run(server, "predict", "--model", "m-1", "--input", "-", stdin='{"x": [1]}')) == {"x": [1]}
    np.savez(tmp_path / "in.npz", x=np.array([2.5], np.float16))
    assert answer(run(server, "predict", "--model", "m-1", "--input", str(tmp_path / "in.npz"))) == {
        "x": [2.5]
    }
    out = tmp_path / "out.npz"
    done = run(server, "predict", "--model", "m-1", "--input", str(tmp_path / "in.npz"), "--output", str(out))
    assert done.exit_code == 0
    assert np.load(out)["x"].dtype == np.float16
    assert server.address in done.stderr


def test_pytorch_from_files_of_each_kind(server: Backend, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    np.save(tmp_path / "row.npy", np.ones((1, 3)))
    (tmp_path / "words.txt").write_text("hello")
    ask = ("predict", "--task", "39", "--input")
    assert answer(run(server, *ask, str(tmp_path / "image.png")))["payload"] == {"b64": "iVBOR/8="}
    assert answer(run(server, *ask, str(tmp_path / "row.npy")))["payload"] == [[1.0, 1.0, 1.0]]
    assert answer(run(server, *ask, str(tmp_path / "words.txt")))["payload"] == "hello"
    said = answer(run(server, "predict", "--task", "39", "--data", '{"a": 1}', "--tag", "user=me"))
    assert said == {"payload": {"a": 1}, "tags": {"seen": 39}}


def test_v2(server: Backend) -> None:
    assert answer(run(server, "predict", "--model", "m-1", "--protocol", "v2", "--data", '{"x": [1.0]}')) == {
        "x": [1.0]
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "1"], "say which model"),
        (["--model", "m-1"], "give the input"),
        (["--model", "m-1", "--data", "{"], "not JSON: "),
        (["--model", "m-1", "--data", "[1]"], "expected named inputs"),
        (["--model", "m-1", "--data", '{"x": [[1], [1, 2]]}'], "x: "),
        (["--model", "m-1", "--data", '{"x": {"type": "int8"}}'], 'expected an array, or {"dtype"'),
        (["--model", "m-1", "--data", '{"x": {"dtype": "int9", "data": [1]}}'], "int9"),
        (["--model", "m-1", "--input", "/nowhere.npy"], "/nowhere.npy"),
        (["--model", "m", "--protocol", "pytorch", "--data", "[1]"], "says no task"),
        (["--task", "1", "--data", "true"], "expected an array, a string or an object"),
    ],
)
def test_mistakes_are_told(server: Backend, arguments: list[str], said: str) -> None:
    result = run(server, "predict", *arguments)
    assert result.exit_code != 0
    assert said in result.output
    assert server.seen == []


def test_health_and_its_exit_status(server: Backend) -> None:
    assert run(server, "health").output.strip() == "SERVING"
    server.serving = False
    result = run(server, "health", "textcnn-69")
    assert (result.exit_code, result.output.strip()) == (1, "NOT_SERVING")
    nobody = run(None, "--address", "127.0.0.1:1", "--timeout", "0.5", "health")
    assert nobody.exit_code == 1 and "UNAVAILABLE" in nobody.output


def test_bench_tells_rate_latency_and_failures(server: Backend) -> None:
    import grpc

    server.failures = [grpc.StatusCode.INTERNAL]
    result = run(
        server, "bench", "--model", "m-1", "--data", '{"x": [1.0]}', "--in-flight", "2", "--seconds", "0.5"
    )
    assert "p99" in result.output and f"100.0%  {server.address}" in result.output
    assert "failed: 1 x INTERNAL, such as: told to fail with INTERNAL" in result.output
    assert result.exit_code == 1


def test_help_teaches_and_shells_complete() -> None:
    assert "dl-inference predict --task 39 --input digit.png" in run(None, "--help").output
    for shell in ("bash", "zsh", "fish"):
        assert "_DL_INFERENCE_COMPLETE" in run(None, "completion", shell).output
