from __future__ import annotations

import logging

import numpy as np
import pytest

from libs.serving.call import Call
from libs.serving.errors import InvalidArgument
from services.torch_worker.serving.request_log import RequestLog, described

CALL = Call("/seldon.protos.Model/Predict", {})


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_line_tells_what_came_and_what_became_of_it(caplog: pytest.LogCaptureFixture) -> None:
    requests = RequestLog(1.0, lambda: 0.5)
    with caplog.at_level(logging.INFO):
        requests.write(CALL, np.zeros((2, 3)), {"puid": "p1", "tags": {"user": "secret"}}, 0.0015, b"12345")
        requests.write(CALL, "private text", {"tags": {}}, 0.001, InvalidArgument("private text"))
        requests.write(CALL, b"12", {"tags": {}}, 0.001, KeyError("x"))
    assert lines(caplog) == [
        "/seldon.protos.Model/Predict id='p1' input=float64[2, 3] tags=['user'] took 1.500 ms: OK 5 bytes",
        "/seldon.protos.Model/Predict id='-' input=text of 12 characters tags=[] took 1.000 ms: INVALID_ARGUMENT",
        "/seldon.protos.Model/Predict id='-' input=2 bytes tags=[] took 1.000 ms: KeyError",
    ]


def test_a_line_stays_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    meta = {"puid": "a\nb" + "x" * 9999, "tags": {f"t{n}": n for n in range(100)}}
    payload = {f"input{n}": np.zeros(1, np.float32) for n in range(20)}
    with caplog.at_level(logging.INFO):
        RequestLog(1.0, lambda: 0.0).write(CALL, payload, meta, 0.0, b"")
    (line,) = lines(caplog)
    assert "\n" not in line and len(line) < 700
    assert "12 more" in line and "92 more" in line


def test_chooses_the_share_that_was_asked_for() -> None:
    values = iter([0.0, 0.09, 0.1, 0.99])
    requests = RequestLog(0.1, lambda: next(values))
    assert [requests.chooses() for _ in range(4)] == [True, True, False, False]


def test_values_are_not_shown() -> None:
    assert described({"a": [1, 2], "password": "x"}) == "JSON dict"
    assert described(None) == "JSON NoneType"
    assert described({"x": np.zeros((1, 2), np.int64)}) == "{x:int64[1, 2]}"
