from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model.versions import ModelError
from services.tf_serving.serving.servables import Servable
from services.tf_serving.serving.warm_up import replay
from services.tf_serving.testing import predict_request


@pytest.fixture(scope="module")
def servable(models: Path) -> Iterator[Servable]:
    tensorflow()
    engine = Engine.load(models / "mixed" / "7", Threads(1))
    yield Servable("mixed-70", 7, engine)
    engine.close()


def predict_log(index: int) -> bytes:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    log = PredictionLog()
    log.predict_log.request.CopyFrom(
        predict_request("another", {"i": np.array([index], "i4")}, signature="pick")
    )
    log.predict_log.request.model_spec.version.value = 3
    return bytes(log.SerializeToString())


def test_records_compile_what_they_ask_for_whatever_they_were_recorded_of(servable: Servable) -> None:
    before = servable.engine.runner.cache_info().currsize
    replay(servable, [predict_log(0), predict_log(2)])
    assert servable.engine.runner.cache_info().currsize == before + 1
    replay(servable, [])


def test_a_record_that_fails_is_named(servable: Servable) -> None:
    with pytest.raises(ModelError, match=r"recorded request 2 cannot be answered: .*indices\[0\] = 3"):
        replay(servable, [predict_log(0), predict_log(3)])


def test_what_is_no_request_is_told(servable: Servable) -> None:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    with pytest.raises(ModelError, match=r"recorded request 1 .*not a tensorflow\.serving\.PredictionLog"):
        replay(servable, [b"\x0a\xff"])
    with pytest.raises(ModelError, match="a log of no type: expected one of predict_log"):
        replay(servable, [b""])
    run = PredictionLog(session_run_log={}).SerializeToString()
    with pytest.raises(ModelError, match="a session_run_log: expected one of"):
        replay(servable, [run])
    with pytest.raises(ModelError, match="1001 recorded requests: expected at most 1000"):
        replay(servable, [b""] * 1001)
