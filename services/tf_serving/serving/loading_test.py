from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.tf_serving.execution.batch_rules import BatchRules
from services.tf_serving.execution.engine import Engine
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import warmup
from services.tf_serving.model.versions import ModelError
from services.tf_serving.options import Options
from services.tf_serving.serving.loading import Loader
from services.tf_serving.testing import predict_request


def write(version: Path, *indices: int) -> Path:
    """A warm-up file with a request for each index; `mixed` picks from three values by it."""
    tf = tensorflow()
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    file = version / warmup.FILE
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for index in indices:
            log = PredictionLog()
            log.predict_log.request.CopyFrom(
                predict_request("any", {"i": np.array([index], "i4")}, signature="pick")
            )
            writer.write(log.SerializeToString())
    return file


@pytest.fixture
def version(models: Path, tmp_path: Path) -> Path:
    tensorflow()
    return shutil.copytree(models / "mixed" / "7", tmp_path / "7")


def test_a_version_is_warmed_up_on_zeros_and_by_its_records(version: Path) -> None:
    loader = Loader(Options("m", "/m"))
    engine = loader.load("m", 7, version)
    compiled = engine.runner.cache_info().currsize
    assert compiled == 5  # those that have inputs
    engine.close()
    write(version, 0, 1)
    engine = loader.load("m", 7, version)
    assert engine.runner.cache_info().hits >= 1
    engine.close()


def test_nothing_is_warmed_up_when_that_is_switched_off(version: Path) -> None:
    write(version, 3)  # which would fail
    engine = Loader(Options("m", "/m", warm_up=False)).load("m", 7, version)
    assert engine.runner.cache_info().currsize == 0
    engine.close()


def test_a_record_that_cannot_be_answered_refuses_the_version(version: Path) -> None:
    file = write(version, 0, 3)
    with pytest.raises(ModelError, match=f"{file}: recorded request 2 cannot be answered: .*indices"):
        Loader(Options("m", "/m")).load("m", 7, version)


def test_a_damaged_file_refuses_the_version(version: Path) -> None:
    file = write(version, 0)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ModelError, match=f"cannot read {file}: "):
        Loader(Options("m", "/m")).load("m", 7, version)


def test_with_parameters_by_model_only_those_that_have_some_are_batched(version: Path) -> None:
    loader = Loader(Options("m", "/m", max_batch_size=64, per_model_batching=True))
    engine = loader.load("m", 7, version)
    assert (engine.batched, engine.rules) == (False, None)
    engine.close()
    file = version / "batching_params.pbtxt"
    file.write_text("max_batch_size { value: 4 } allowed_batch_sizes: [2, 4]")
    engine = loader.load("m", 7, version)
    assert (engine.batched, engine.rules) == (
        True,
        BatchRules(allowed_rows=(2, 4), max_request_rows=4, max_rows=4),
    )
    engine.close()
    engine = Loader(Options("m", "/m", max_batch_size=64)).load("m", 7, version)
    assert (engine.batched, engine.rules) == (True, None)
    engine.close()
    file.write_text("max_batch_size { value: 4 }\nallowed_batch_sizes: 2")
    with pytest.raises(ModelError, match=r"batching_params\.pbtxt:2: Last entry in allowed_batch_sizes"):
        loader.load("m", 7, version)


def test_each_allowed_batch_size_is_warmed_up(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[tuple[int, ...]] = []
    warm_up = Engine.warm_up

    def record(engine: Engine, rows: Sequence[int]) -> int:
        warmed.append(tuple(rows))
        return warm_up(engine, rows)

    monkeypatch.setattr(Engine, "warm_up", record)
    shared = version.parent / "batching.config"
    shared.write_text("max_batch_size { value: 8 } allowed_batch_sizes: [4, 8]")
    batched = Options("m", "/m", max_batch_size=64, batching_parameters_file=str(shared))
    own = replace(batched, per_model_batching=True)
    for options in (batched, own, Options("m", "/m")):
        Loader(options).load("m", 7, version).close()
    (version / "batching_params.pbtxt").write_text("max_batch_size { value: 2 } allowed_batch_sizes: 2")
    Loader(own).load("m", 7, version).close()
    assert warmed == [(4, 8), (1,), (1,), (2,)]
