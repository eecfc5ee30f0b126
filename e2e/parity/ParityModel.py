"""A Seldon-style class that both servers run; the request's tag `answer` says what it answers."""

import copy

import numpy as np


class ParityModel:
    def __init__(self):
        self.loaded = False

    def load(self):
        self.loaded = True

    def predict(self, X, names, meta=None):  # noqa: N803 - as seldon-core calls it
        assert self.loaded
        meta = meta or {}
        what = meta.get("tags", {}).get("answer", "same")
        if what == "same":
            return X
        if what == "double":
            return np.asarray(X) * 2
        if what == "names":
            return {"names": [str(name) for name in names]}
        if what == "meta":
            return {"meta": copy.deepcopy(meta)}  # seldon-core goes on to change it
        if what == "failure":
            raise RuntimeError("this model failed")
        return {
            "row": [[1.0, 2.0]],
            "integers": np.array([[1, 2], [3, 4]]),
            "vector": np.array([1.5, 2.5], np.float32),
            "cube": np.arange(8.0).reshape(2, 2, 2),
            "empty": np.zeros((0, 2)),
            "words": [["cat", "dog"]],
            "flags": [True, False],
            "text": "a text, 字",
            "bytes": b"\x00\xff",
            "json": {"a": [1, 2.5, None], "b": {"c": "x", "d": True}},
        }[what]

    def tags(self):
        return {"model": "parity", "parts": [1, "two"]}

    def metrics(self):
        return [
            {"key": "calls", "type": "COUNTER", "value": 1},
            {"key": "took", "type": "TIMER", "value": 2.5, "tags": {"stage": "all"}},
        ]
