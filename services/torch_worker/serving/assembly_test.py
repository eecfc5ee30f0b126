from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from libs.serving.call import Call
from libs.serving.metrics import Metrics
from services.torch_worker.config import ConfigError, WorkerConfig
from services.torch_worker.model.model_config import ModelConfig
from services.torch_worker.serving.assembly import Assembler, policy_of
from services.torch_worker.serving.servable import Request, Servable
from services.torch_worker.testing import DOUBLER, kept_process_state, make_folder


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    threads = torch.get_num_threads()
    with kept_process_state():
        yield
    torch.set_num_threads(threads)


def load(folder: Path, **options: Any) -> Servable:
    config = WorkerConfig(str(folder), **options)
    return Assembler(config, Metrics({"model": "m"})).load(folder)


def answers(servable: Servable, *payloads: Any) -> list[Any]:
    """What the requests are answered, as repr, all sent at once."""

    def encode(result: Any, names: Any) -> bytes:
        return repr(np.asarray(result).tolist()).encode()

    async def ask() -> list[bytes]:
        call = Call("/m", {})
        requests = [Request(payload, {"tags": {}}, encode) for payload in payloads]
        try:
            return await asyncio.gather(*(servable.predict(call, request) for request in requests))
        finally:
            await servable.close(5.0)

    return [ast.literal_eval(text.decode()) for text in asyncio.run(ask())]


def rows(*first: float) -> list[np.ndarray[Any, Any]]:
    return [np.full((1, 3), value) for value in first]


@pytest.mark.parametrize("options", [{}, {"instances": 3}, {"threads": 2}, {"threads": 0, "instances": 2}])
def test_a_folder_becomes_a_servable(tmp_path: Path, options: dict[str, Any]) -> None:
    servable = load(make_folder(tmp_path / "m", DOUBLER, "Doubler()"), **options)
    values = [float(n) for n in range(40)]
    assert answers(servable, *rows(*values)) == [[[2 * v + 1] * 3] for v in values]


def test_the_log_tells_of_the_warm_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load(make_folder(tmp_path / "m", DOUBLER, "Doubler()"), threads=1, max_batch_size=4)
    assert "warm-up with made-up rows, instance 0; ms (at first) by rows 1:" in caplog.text
    assert "1 instances, 1 threads a call, batches of up to 4 rows" in caplog.text


def test_autocast_answers_in_float32(tmp_path: Path) -> None:
    servable = load(make_folder(tmp_path / "m", DOUBLER, "Doubler()"), autocast="bfloat16")
    assert answers(servable, *rows(3.0)) == [[[7.0] * 3]]


def test_a_recorded_request_that_the_model_cannot_answer_fails_the_load(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", DOUBLER, "Doubler()", config='[warmup]\nfiles = ["x.npy"]\n')
    np.save(folder / "x.npy", np.ones((1, 4)))
    with pytest.raises(ConfigError, match=r"warm-up: the model cannot answer x\.npy"):
        load(folder)
    np.save(folder / "x.npy", np.ones((2, 3)))
    assert answers(load(folder), *rows(1.0)) == [[[3.0] * 3]]
    (folder / "x.npy").unlink()
    with pytest.raises(ConfigError, match=r"x\.npy: .*"):
        load(folder)


def test_a_missing_compiler_fails_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="--compile: no no-such-compiler is found here"):
        load(make_folder(tmp_path / "m", DOUBLER, "Doubler()"), compile="default")


def test_a_second_version_takes_the_first_ones_threads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(tmp_path / "m", DOUBLER, "Doubler()")
    assembler = Assembler(WorkerConfig(str(folder)), Metrics({"model": "m"}))
    assembler.load(folder)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assembler.load(folder)
    assert "cores for a call" not in caplog.text and "warm-up with made-up rows" in caplog.text


def test_preferred_sizes_reach_the_queue() -> None:
    worker = WorkerConfig("/m", preferred_batch_sizes=(4, 8))
    assert policy_of(worker, ModelConfig(preferred_batch_sizes=(2,))).preferred_batch_sizes == (4, 8)
    assert policy_of(WorkerConfig("/m"), ModelConfig(preferred_batch_sizes=(2,))).preferred_batch_sizes == (
        2,
    )
    with pytest.raises(ConfigError, match="at most max_batch_size, 4"):
        policy_of(WorkerConfig("/m", max_batch_size=4), ModelConfig(preferred_batch_sizes=(8,)))
