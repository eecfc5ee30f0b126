from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch

from libs.serving.errors import Internal, InvalidArgument
from services.torch_worker.config import ConfigError
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.engine import Engine
from services.torch_worker.model.answer import Answer
from services.torch_worker.model.loading import LoadedModel, open_model
from services.torch_worker.model.seldon_class import PARAMETERS_VARIABLE, class_parameters

CPU = torch.device("cpu")


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Any]:
    opened: list[LoadedModel] = []

    def load(source: str, config: str = "", name: str = "MyModel") -> LoadedModel:
        (tmp_path / f"{name}.py").write_text(dedent(source))
        (tmp_path / "config.toml").write_text(dedent(config))
        opened.append(open_model(tmp_path, CPU))
        return opened[-1]

    yield load
    for loaded in opened:
        loaded.namespace.close()
    for name in [name for name in sys.modules if name.partition(".")[0] == "seldon_core"]:
        del sys.modules[name]


def engine_of(loaded: LoadedModel) -> Engine:
    caller = ModelCaller(loaded.model, CPU, loaded.hooks.run_model)
    config = loaded.folder.config
    return Engine([caller], loaded.hooks, folder=loaded.folder.path, batchable=config.batchable)


def ask(loaded: LoadedModel, payload: Any, meta: dict[str, Any] | None = None) -> Any:
    engine = engine_of(loaded)
    return engine.run([engine.prepare(payload, {"tags": {}} if meta is None else meta)])[0]


FULL = """
import numpy as np
from seldon_core.user_model import SeldonComponent, SeldonResponse

class MyModel(SeldonComponent):
    def __init__(self, factor=1, word="x"):
        self.factor, self.word, self.loaded = factor, word, False

    def load(self):
        self.loaded = True

    def predict(self, X, names, meta=None):
        assert self.loaded and type(X) is np.ndarray and X.dtype == np.float64
        self.seen = (list(names), meta)
        return SeldonResponse(X * self.factor, tags={"runtime": 1}, metrics=[{"key": "r", "type": "GAUGE", "value": 2}])

    def tags(self):
        return {"word": self.word, "runtime": 0}

    def metrics(self):
        return [{"key": "m", "type": "COUNTER", "value": 1}]

    def class_names(self):
        return ["a", "b"]
"""


def test_a_class_with_everything(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = '[{"name": "word", "value": "env", "type": "STRING"}]'
    monkeypatch.setenv(PARAMETERS_VARIABLE, parameters)
    loaded = load(FULL, '[parameters]\nfactor = 3\nword = "toml"\n')
    assert loaded.kind == "class MyModel"
    x = np.arange(4.0).reshape(2, 2)
    x.flags.writeable = False
    answer = ask(loaded, x, {"tags": {"taskId": 5}, "puid": "p", "names": ["u", "v"]})
    assert type(answer) is Answer and np.array_equal(answer.payload, 3 * x)
    assert loaded.model.user.seen == (["u", "v"], {"tags": {"taskId": 5}, "puid": "p"})
    assert answer.tags == {"taskId": 5, "word": "env", "runtime": 1}
    assert [metric["key"] for metric in answer.metrics] == ["m", "r"]
    assert answer.names == ("a", "b")


def test_metrics_may_be_kept_out_of_the_answers(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCLUDE_METRICS_IN_CLIENT_RESPONSE", "false")
    assert ask(load(FULL), np.ones((1, 2))).metrics == []


@pytest.mark.parametrize(
    "predict",
    [
        "def predict(self, X, names, meta): return {'n': names, 'm': meta}",
        "def predict(self, X, names=None, meta=None): return {'n': names, 'm': meta}",
        "def predict(self, X, features_names, **kwargs): return {'n': features_names, 'm': kwargs['meta']}",
    ],
)
def test_the_forms_of_predict_that_take_meta(load: Any, predict: str) -> None:
    answer = ask(
        load(f"class MyModel:\n    {predict}\n"), np.ones(2), {"tags": {"a": 1, "b": 2}, "names": ["n"]}
    )
    assert answer.payload == {"n": ["n"], "m": {"tags": {"a": 1, "b": 2}}}
    assert answer.tags == {"a": 1, "b": 2} and answer.names is None


@pytest.mark.parametrize(
    ("predict", "expected"),
    [
        ("def predict(self, X, features_names): return features_names", []),
        ("def predict(self, X): return float(X.sum())", 2.0),
        ("def predict(self, X, names, meta): return {'sum': X.sum()}", {"sum": 2.0}),
        ("def predict(self, X, names, meta): return 'text'", "text"),
    ],
)
def test_other_forms_and_answers(load: Any, predict: str, expected: Any) -> None:
    answer = ask(load(f"class MyModel:\n    {predict}\n"), np.ones(2))
    assert (answer.payload.tolist() if isinstance(expected, list) else answer.payload) == expected
    assert answer.tags is None and answer.metrics == [] and answer.names is None


@pytest.mark.parametrize(
    "payload", [b"bytes", "text", {"a": [1, "b"]}, [1, 2], np.array([["a", "b"]], object)]
)
def test_payloads_of_all_kinds_come_as_they_are(load: Any, payload: Any) -> None:
    answer = ask(load("class MyModel:\n    def predict(self, X, names): self.x = X; return 'ok'\n"), payload)
    assert answer.payload == "ok"


def test_inputs_by_name_and_autograd(load: Any) -> None:
    source = """
        import torch
        class MyModel:
            def predict(self, X, names):
                x = torch.tensor(X["a"], requires_grad=True)
                (x * x).sum().backward()
                return x.grad.numpy() + X["b"]
        """
    answer = ask(load(source), {"a": np.array([1.0, 2.0]), "b": np.array([1.0, 1.0])})
    assert answer.payload.tolist() == [3.0, 5.0]


def test_the_base_classs_methods_count_as_absent(load: Any) -> None:
    source = """
        from seldon_core.user_model import SeldonComponent
        class MyModel(SeldonComponent):
            def predict(self, X, names, meta=None): return X
        """
    answer = ask(load(source), np.ones((1, 2)))
    assert (answer.tags, answer.metrics, answer.names) == (None, [], None)


def test_requests_share_calls_only_if_the_folder_says_so(load: Any) -> None:
    source = """
        class MyModel:
            calls = 0
            def predict(self, X, names, meta):
                self.calls += 1
                return X * 2
            def tags(self): return {"call": self.calls}
        """
    for config, calls in (("", 3), ("[model]\nbatchable = true\n", 1)):
        loaded = load(source, config)
        engine = engine_of(loaded)
        jobs = [engine.prepare(np.full((n, 2), float(n)), {"tags": {}}) for n in (1, 2, 3)]
        answers = engine.run(jobs)
        assert [answer.payload.tolist() for answer in answers] == [[[2.0 * n] * 2] * n for n in (1, 2, 3)]
        assert answers[-1].tags == {"call": calls} and loaded.model.user.calls == calls


def test_only_requests_with_the_same_names_and_tags_may_share_a_call(load: Any) -> None:
    source = """
        class MyModel:
            def predict(self, X, names): return X[:, [names.index("a")]]
        """
    engine = engine_of(load(source, "[model]\nbatchable = true\n"))

    def key(names: list[str], **tags: Any) -> Any:
        return engine.key(engine.prepare(np.ones((1, 2)), {"tags": tags, "names": names, "puid": names[0]}))

    assert key(["a", "b"], taskId=1) == key(["a", "b"], taskId=1)
    assert key(["a", "b"], taskId=1) != key(["b", "a"], taskId=1)
    assert key(["a", "b"], taskId=1) != key(["a", "b"], taskId=2)


def test_exceptions_and_bad_metrics(load: Any) -> None:
    source = """
        from seldon_core.flask_utils import SeldonMicroserviceException
        class MyModel:
            def predict(self, X, names, meta):
                if X[0] == 1: raise SeldonMicroserviceException("too small", status_code=400)
                if X[0] == 2: raise SeldonMicroserviceException("broken", status_code=503)
                if X[0] == 3: return 1 / 0
                return X
            def metrics(self): return [{"key": "k", "type": "SUM", "value": 1}]
        """
    loaded = load(source)
    answers = [ask(loaded, np.array([float(n)])) for n in (1, 2, 3, 4)]
    assert [type(answer) for answer in answers] == [InvalidArgument, Internal, Internal, Internal]
    assert answers[0].message == "too small"
    assert answers[2].message == "predict raised ZeroDivisionError: division by zero (MyModel.py line 7)"
    assert answers[3].message.startswith("metrics: expected a list of")


@pytest.mark.parametrize(
    ("source", "config", "message"),
    [
        (
            "class Other: pass\n",
            '[model]\nclass = "MyModel"\n',
            r"MyModel\.py: has no class MyModel; it has Other",
        ),
        ("class MyModel: pass\n", '[model]\nclass = "MyModel"\n', r"must have predict"),
        (
            "class MyModel:\n  def predict_raw(self, m): pass\n",
            "",
            r"must have predict\(self, X, names, meta\)",
        ),
        ("import absent\nclass MyModel:\n  def predict(self): pass\n", "", r"absent.*\(MyModel\.py line 1\)"),
        (
            "class MyModel:\n  def __init__(self, a): pass\n  def predict(self): pass\n",
            "[parameters]\nb = 1\n",
            r"MyModel\(b=1\) failed: TypeError.*'b'",
        ),
        (
            "class MyModel:\n  def load(self): raise OSError('no file')\n  def predict(self, X, n): pass\n",
            "",
            r"MyModel\.load\(\) failed: OSError: no file \(MyModel\.py line 2\)",
        ),
        ("", '[model]\nclass = "a.b.C"\n', r"a/b\.py: no such file; config\.toml names the class C in it"),
    ],
)
def test_a_class_that_cannot_serve_says_why(load: Any, source: str, config: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(source, config)


def test_a_class_that_has_no_load_or_an_abstract_one(load: Any) -> None:
    source = (
        "class MyModel:\n  def load(self): raise NotImplementedError\n  def predict(self, X, n): return X\n"
    )
    assert ask(load(source), np.ones(1)).payload == [1.0]


def test_parameters_of_the_environment() -> None:
    text = """[{"name": "a", "value": "1", "type": "INT"}, {"name": "b", "value": "1.5", "type": "DOUBLE"},
              {"name": "c", "value": "False", "type": "BOOL"}, {"name": "d", "value": "x", "type": "STRING"}]"""
    assert class_parameters({"a": 0, "z": 9}, text) == {"a": 1, "z": 9, "b": 1.5, "c": False, "d": "x"}
    assert class_parameters({}, "") == {}
    for bad in ("{", '[{"name": "a"}]', '[{"name": "a", "value": "x", "type": "INT"}]', "[1]", "3"):
        with pytest.raises(ConfigError, match="PREDICTIVE_UNIT_PARAMETERS: expected a JSON list"):
            class_parameters({}, bad)
