from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from services.torch_worker.config import ConfigError
from services.torch_worker.model.folder import ModelFolder
from services.torch_worker.model.hooks import Hooks, is_plain_call, load_hooks
from services.torch_worker.model.model_config import ModelConfig
from services.torch_worker.model.namespace import Namespace
from services.torch_worker.testing import kept_process_state


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    with kept_process_state():
        yield


def load(folder: Path, source: str | None, **files: str) -> Hooks:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(dedent(text))
    processor = None
    if source is not None:
        processor = folder / "processor.py"
        processor.write_text(dedent(source))
    parts = ModelFolder(folder, folder / "model.pth", processor, ModelConfig())
    return load_hooks(parts, Namespace(folder))


def test_no_processor_no_hooks(tmp_path: Path) -> None:
    assert load(tmp_path, None) == Hooks()


def test_hooks_are_optional_and_may_be_imported(tmp_path: Path) -> None:
    hooks = load(
        tmp_path,
        """
        from helpers import *
        class_names = ["a", "b"]
        def preprocess(x, **kwargs):
            return x + 1
        """,
        helpers="def postprocess(x, **kwargs):\n    return -x\n",
    )
    assert hooks.run_model is None
    assert hooks.preprocess is not None and hooks.preprocess(1) == 2
    assert hooks.postprocess is not None and hooks.postprocess(1) == -1
    assert hooks.class_names == ("a", "b")
    assert hooks.preprocess_batch is None and hooks.preprocesses and hooks.postprocesses
    assert hooks.model_takes_tags


def test_the_folders_processor_wins_over_an_installed_module(tmp_path: Path) -> None:
    for side in ("one", "two"):
        (tmp_path / side).mkdir()
        hooks = load(tmp_path / side, f"def preprocess(x, **kwargs):\n    return {side!r}\n")
        assert hooks.preprocess is not None and hooks.preprocess(0) == side


def test_a_run_model_that_only_calls_the_model_is_no_custom_call(tmp_path: Path) -> None:
    hooks = load(tmp_path, "def run_model(model, x, **kwargs):\n    'as the template'\n    return model(x)\n")
    assert hooks.run_model is None
    assert not hooks.model_takes_tags


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("def f(model, x, **kwargs): return model(x)", True),
        ("def f(net, data, **kw): return net(data)", True),
        ("def f(model, x, **kwargs): return model(x.to('cpu'))", False),
        ("def f(model, x, **kwargs): return model(x, **kwargs)", False),
        ("def f(model, x, **kwargs): return x(model)", False),
        ("def f(x, model, **kwargs): return model(x)", False),
        ("def f(model, x): return model(x)", False),
        ("def f(model, x, **kwargs):\n  y = model(x)\n  return y + 1", False),
        ("from functools import partial\nf = partial(lambda model, x, **k: model(x))", False),
    ],
)
def test_plain_calls(source: str, plain: bool) -> None:
    names: dict[str, Any] = {}
    exec(source, names)
    assert is_plain_call(names["f"]) is plain


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n\nimport not_installed_anywhere\n", r"ModuleNotFoundError.*\(processor\.py line 3\)"),
        ("def preprocess(x:\n", r"SyntaxError.*\(processor\.py line 1\)"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(processor\.py line 2\)"),
        ("preprocess = 3\n", "preprocess must be a function, it is of type int"),
        ("postprocess_batch = []\n", "postprocess_batch must be a function, it is of type list"),
        (
            "def preprocess(x): return x\n",
            r"preprocess\(x\) cannot be called .* def preprocess\(x, \*\*kwargs\): ",
        ),
        (
            "def run_model(x, **kw): return x\n",
            r"as hooks are, def run_model\(model, x, \*\*kwargs\): too many",
        ),
        ("def preprocess_batch(xs, meta): return xs\n", "missing a required argument: 'meta'"),
        (
            "async def postprocess(x, **kwargs): return x\n",
            "postprocess must be a plain function, .* not async",
        ),
        ("class_names = 'ab'\n", "class_names must be a list of strings"),
    ],
)
def test_a_processor_that_cannot_be_used_says_why(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, source)


@pytest.mark.parametrize(
    "source",
    [
        "def preprocess(x, meta): return x\n",
        "class Hook:\n    def __call__(self, x, **kwargs): return x\npostprocess = Hook()\n",
        "from functools import partial\ndef f(y, x, **kwargs): return x\npreprocess = partial(f, 1)\n",
        "def run_model(model, x, *, meta, **kwargs): return x\n",
    ],
)
def test_hooks_of_any_callable_form(tmp_path: Path, source: str) -> None:
    hooks = load(tmp_path, source)
    assert hooks.preprocess or hooks.run_model or hooks.postprocess


def test_a_processor_without_hooks_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for side, source, warned in (
        ("typo", "def preproces(x, **kwargs): return x\n", True),
        ("names", "class_names = ['a']\n", False),
    ):
        (tmp_path / side).mkdir()
        caplog.clear()
        load(tmp_path / side, source)
        assert ("it changes nothing" in caplog.text) is warned


def test_batched_hooks_count_as_hooks(tmp_path: Path) -> None:
    hooks = load(tmp_path, "def preprocess_batch(xs, **kwargs):\n    return [x + 1 for x in xs]\n")
    assert hooks.preprocess is None and hooks.preprocess_batch is not None
    assert hooks.preprocess_batch([1, 2]) == [2, 3]
    assert hooks.preprocesses and not hooks.postprocesses
