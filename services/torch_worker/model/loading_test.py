from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import nn

from services.torch_worker.config import ConfigError
from services.torch_worker.model.loading import LoadedModel, open_model
from services.torch_worker.testing import DOUBLER, make_folder

CPU = torch.device("cpu")
ROW = torch.tensor([[1.0, 2.0, 3.0]])

BUILDER = (
    dedent(DOUBLER)
    + """
def build_model(scale=1.0):
    model = Doubler()
    model.scale = scale
    return model
"""
)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


@pytest.fixture
def load() -> Iterator[Any]:
    """open_model, whose modules are forgotten after the test."""
    opened: list[LoadedModel] = []

    def load(path: Path, **options: Any) -> LoadedModel:
        opened.append(open_model(path, CPU, **options))
        return opened[-1]

    yield load
    for loaded in opened:
        loaded.namespace.close()


def weights_folder(path: Path, state: dict[str, Any] | None = None) -> Path:
    make_folder(path, DOUBLER, "Doubler().state_dict()")
    if state is not None:
        torch.save(state, path / "model.pth")
    (path / "model.py").write_text(BUILDER)
    return path


def test_a_pickled_model_finds_its_class_file(tmp_path: Path, load: Any) -> None:
    before = os.getcwd()
    loaded = load(make_folder(tmp_path, DOUBLER, "Doubler().train()"))
    assert loaded.kind == "pickle" and not loaded.model.training
    assert loaded.model(ROW).tolist() == [[3.0, 5.0, 7.0]]
    assert os.getcwd() == before


def test_classes_that_are_not_where_the_model_was_saved(tmp_path: Path, load: Any) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()")
    (tmp_path / "net.py").write_text(dedent(DOUBLER).replace("Doubler", "Tripler"))
    with pytest.raises(
        ConfigError, match=r"no attribute 'Doubler'\): put the file beside model\.pth that"
    ) as caught:
        load(tmp_path)
    assert "__main__" not in str(caught.value)

    script = "import torch\nclass Net(torch.nn.Module): pass\ntorch.save(Net(), 'model.pth')\n"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)
    with pytest.raises(ConfigError, match=r"Net is a class .* \(__main__\), .* move it to a file"):
        load(tmp_path)


def test_parameters_that_nothing_takes_are_warned_of(
    tmp_path: Path, load: Any, caplog: pytest.LogCaptureFixture
) -> None:
    load(make_folder(tmp_path, DOUBLER, "Doubler()", config="[parameters]\nscale = 2\n"))
    assert "[parameters] are for build_model or a class; this pickle takes none" in caplog.text
    caplog.clear()
    weights = weights_folder(tmp_path)
    (weights / "config.toml").write_text("[parameters]\nscale = 2.0\n")
    assert load(weights).model.scale == 2.0 and not caplog.text


def test_two_versions_with_files_of_one_name(tmp_path: Path, load: Any) -> None:
    processor = "from net import Doubler\nopen('word.txt').read()\ndef preprocess(x, **kwargs):\n    return Doubler.N\n"
    models = []
    for n in (1, 2):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "word.txt").write_text("opened by a relative name")
        source = dedent(DOUBLER) + f"    N = {n}\n"
        models.append(load(make_folder(folder, source, "Doubler()", processor=processor)))
    assert [loaded.hooks.preprocess(0) for loaded in models] == [1, 2]
    assert [type(loaded.model).N for loaded in models] == [1, 2]


def test_a_missing_class_file_is_named(tmp_path: Path, load: Any) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()")
    (tmp_path / "net.py").unlink()
    with pytest.raises(ConfigError, match=r"refers to module 'net'.*put net\.py beside model\.pth"):
        load(tmp_path)


def test_what_is_no_model_is_refused(tmp_path: Path, load: Any) -> None:
    make_folder(tmp_path / "a", DOUBLER, "Doubler().state_dict()")
    with pytest.raises(
        ConfigError, match=r"holds weights \(2 tensors\).*model\.py beside it.*build_model\(\)"
    ):
        load(tmp_path / "a")
    make_folder(tmp_path / "b", DOUBLER, "[1, 2]")
    with pytest.raises(ConfigError, match=r"holds a list, expected a torch\.nn\.Module"):
        load(tmp_path / "b")
    make_folder(tmp_path / "c", DOUBLER, "{'epoch': 3, 'net': Doubler()}")
    with pytest.raises(ConfigError, match=r"holds a dict with 'epoch', 'net', expected"):
        load(tmp_path / "c")


def test_code_of_the_folder_that_raises_is_reported(tmp_path: Path, load: Any) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()")
    for raised in ("LookupError('no licence')", "SystemExit(3)"):
        (tmp_path / "net.py").write_text(f"raise {raised}\n")
        with pytest.raises(ConfigError, match=raised.split("(")[0] + ": (no licence|3)"):
            load(tmp_path)


def test_a_state_dict_goes_into_what_build_model_makes(tmp_path: Path, load: Any) -> None:
    weights_folder(tmp_path)
    (tmp_path / "config.toml").write_text("[parameters]\nscale = 0.5\n")
    loaded = load(tmp_path, weights_only=True)
    assert loaded.kind == "state dict" and loaded.model.scale == 0.5 and not loaded.model.training
    assert loaded.model(ROW).tolist() == [[3.0, 5.0, 7.0]]


def test_a_checkpoint_with_objects_in_it(tmp_path: Path, load: Any) -> None:
    state = {"linear.weight": torch.eye(3), "linear.bias": torch.zeros(3)}
    weights_folder(tmp_path, {"state_dict": state, "args": Namespace(lr=0.1)})
    loaded = load(tmp_path)
    assert loaded.kind == "checkpoint" and loaded.model(ROW).tolist() == ROW.tolist()
    with pytest.raises(ConfigError, match="with --weights-only it is not read"):
        load(tmp_path, weights_only=True)


def test_a_pickle_of_the_old_form(tmp_path: Path, load: Any) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()")
    model = load(tmp_path).model
    torch.save(nn.Sequential(nn.Linear(3, 2)), tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    assert load(tmp_path).model(ROW).shape == (1, 2) and model(ROW).shape == (1, 3)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "model_state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ],
)
def test_checkpoints_and_prefixes(tmp_path: Path, load: Any, wrap: Any) -> None:
    state = {"linear.weight": torch.eye(3), "linear.bias": torch.zeros(3)}
    loaded = load(weights_folder(tmp_path, wrap(state)), weights_only=True)
    assert loaded.model(ROW).tolist() == ROW.tolist()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"linear.weight": torch.eye(3)},
            r"does not fit the model of model\.py: the file lacks linear\.bias",
        ),
        (
            {"linear.weight": torch.eye(3), "linear.bias": torch.ones(3), "head.w": torch.ones(1)},
            r"the model has no head\.w$",
        ),
        (
            {f"x{i}": torch.ones(1) for i in range(9)},
            r"lacks linear\.bias, linear\.weight; the model has no x0, x1, x2, x3, x4 and 4 more",
        ),
        (
            {"linear.weight": torch.eye(2), "linear.bias": torch.ones(3)},
            r"size mismatch for linear\.weight.*\[2, 2\]",
        ),
    ],
)
def test_weights_of_another_model_are_refused(
    tmp_path: Path, load: Any, state: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(weights_folder(tmp_path, state))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", r"model\.py: has no function build_model\(\)"),
        ("def build_model():\n    return 3\n", "build_model returned a int, expected"),
        ("def build_model():\n    return nn\n", r"build_model failed: NameError.*\(model\.py line 2\)"),
        ("\nimport absent_package\n", r"cannot be imported: ModuleNotFoundError.*\(model\.py line 2\)"),
        ("def build_model(: pass", r"SyntaxError.*\(model\.py line 1\)"),
    ],
)
def test_a_builder_that_does_not_build(tmp_path: Path, load: Any, source: str, message: str) -> None:
    folder = weights_folder(tmp_path)
    (folder / "model.py").write_text(source)
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_safetensors(tmp_path: Path, load: Any) -> None:
    from safetensors.torch import save_file, save_model

    (tmp_path / "model.py").write_text(BUILDER)
    save_file({"linear.weight": torch.eye(3), "linear.bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    loaded = load(tmp_path, weights_only=True)
    assert loaded.kind == "safetensors" and loaded.model(ROW).tolist() == ROW.tolist()

    tied = tmp_path / "tied"
    tied.mkdir()
    (tied / "model.py").write_text(
        "from torch import nn\n"
        "def build_model():\n"
        "    a, b = nn.Linear(3, 3), nn.Linear(3, 3)\n"
        "    b.weight = a.weight\n"
        "    return nn.Sequential(a, b)\n"
    )
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    save_model(nn.Sequential(a, b), str(tied / "model.safetensors"))
    assert torch.equal(load(tied).model(ROW), b(a(ROW)))


def test_torchscript_whatever_its_name(tmp_path: Path, load: Any) -> None:
    model = Linear()
    for name in ("model.pt", "model.pth"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        script: Any = torch.jit.script(model)
        script.save(folder / name)
        loaded = load(folder)
        assert loaded.kind == "TorchScript" and not loaded.model.training
        assert torch.equal(loaded.model(ROW), model(ROW))


def test_weights_only_takes_no_code_and_no_programs(tmp_path: Path, load: Any) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()")
    with pytest.raises(
        ConfigError, match=r"is a pickle of more than weights, which is code; with --weights-only"
    ):
        load(tmp_path, weights_only=True)
    (tmp_path / "script").mkdir()
    script: Any = torch.jit.script(Linear())
    script.save(tmp_path / "script" / "model.pt")
    with pytest.raises(ConfigError, match=r"holds TorchScript; with --weights-only"):
        load(tmp_path / "script", weights_only=True)


@pytest.mark.parametrize("cut", [0.3, 0.9])
@pytest.mark.parametrize("kind", ["pickle", "script", "export", "safetensors"])
def test_files_that_are_cut_short(tmp_path: Path, load: Any, kind: str, cut: float) -> None:
    from safetensors.torch import save_file

    file = tmp_path / {"export": "model.pt2", "safetensors": "model.safetensors"}.get(kind, "model.pt")
    if kind == "pickle":
        torch.save(Linear().state_dict(), file)
    elif kind == "script":
        script: Any = torch.jit.script(Linear())
        script.save(file)
    elif kind == "export":
        torch.export.save(torch.export.export(Linear(), (ROW,)), file)
    else:
        save_file(Linear().state_dict(), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(ConfigError, match=rf"{file.name}: is (damaged or )?cut short"):
        load(tmp_path)


def test_a_load_that_fails_leaves_nothing_behind(tmp_path: Path, load: Any) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()", processor="import net\nraise ValueError('no')\n")
    before, cwd = set(sys.modules), os.getcwd()
    with pytest.raises(ConfigError, match=r"cannot be imported: ValueError: no \(processor\.py line 2\)"):
        load(tmp_path)
    assert not [name for name in set(sys.modules) - before if name.startswith("model_")]
    assert os.getcwd() == cwd
