"""Three times as many requests as the model can answer, by real clients: what is answered comes in time, the rest hears
so at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np

from libs.proto.messages import SeldonMessage
from services.torch_worker.testing import make_folder
from services.torch_worker.testing_process import worker

# A call takes 20 ms and 10 ms a row, without work: 80 rows a second in batches of 8.
TIMED = """
import time
from torch import nn

class Timed(nn.Module):
    def forward(self, x):
        time.sleep(0.02 + 0.01 * len(x))
        return x
"""
CAPACITY = 80.0
LOAD = 3.0
SECONDS = 5.0
WARM_UP_S = 1.0
DEADLINE_S = 0.5


def test_under_overload_most_of_the_capacity_is_answered_in_time(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "timed", TIMED, "Timed()", config="[model]\nbatchable = true\n")
    request = SeldonMessage()
    request.data.tensor.shape.extend([1, 3])
    request.data.tensor.values.extend([1.0, 2.0, 3.0])
    lock, ended = threading.Lock(), threading.Semaphore(0)
    statuses: Counter[str] = Counter()
    refused_s: list[float] = []
    in_time = sent = 0

    def done(future: grpc.Future, due: float, begin: float) -> None:
        nonlocal in_time
        took, status = time.monotonic() - due, future.code().name
        with lock:
            if due >= begin + WARM_UP_S:
                statuses[status] += 1
                in_time += status == "OK" and took <= DEADLINE_S
                if status == "RESOURCE_EXHAUSTED":
                    refused_s.append(took)
        ended.release()

    with worker(folder, "--max-batch-size", "8") as running:
        answer = running.predict(request)
        assert np.array_equal(answer.data.tensor.values, [1.0, 2.0, 3.0])
        begin = time.monotonic()
        for number in itertools.count():
            due = begin + number / (LOAD * CAPACITY)
            if due > begin + SECONDS:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            sent += 1
            future = running.model.Predict.future(request, timeout=DEADLINE_S)
            future.add_done_callback(lambda future, due=due: done(future, due, begin))
        for _ in range(sent):
            assert ended.acquire(timeout=20), "a call was lost"
    assert set(statuses) <= {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}, statuses
    # Nine tenths and more on a quiet machine; one that is short of cores sends and answers late.
    assert in_time >= 0.6 * CAPACITY * (SECONDS - WARM_UP_S), statuses
    refused_s.sort()
    assert statuses["RESOURCE_EXHAUSTED"] > statuses["DEADLINE_EXCEEDED"], statuses
    assert refused_s[len(refused_s) // 2] < DEADLINE_S / 4, "they learn it at once, to try elsewhere"
