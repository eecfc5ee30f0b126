from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, export, save

from services.torch_worker.config import ConfigError
from services.torch_worker.execution.arguments import arguments_of
from services.torch_worker.model.exported import FixedRows, Rows, load_program
from services.torch_worker.model.loading import open_model

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.linear(x) * scale, "scale": scale}


class Mixing(nn.Module):
    """Every row of its output comes of all rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class Ids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.table(ids)
        return vectors.sum(1)


def program(path: Path, model: nn.Module, args: tuple[Any, ...], **options: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    save(export(model.eval(), args, **options), path / "model.pt2")
    return path / "model.pt2"


def test_a_dynamic_first_dimension_takes_any_number(tmp_path: Path) -> None:
    net, rows = Net(), Dim("rows")
    file = program(
        tmp_path, net, (torch.randn(4, 3), torch.randn(4, 1)), dynamic_shapes=({0: rows}, {0: rows})
    )
    model, takes = load_program(file, CPU)
    assert takes == Rows() and arguments_of(model).names == ("x", "scale")
    for n in (0, 1, 7):
        x, scale = torch.randn(n, 3), torch.randn(n, 1)
        assert torch.equal(model(x, scale)["y"], net(x, scale)["y"])


def test_the_most_rows_become_the_largest_batch(tmp_path: Path) -> None:
    program(
        tmp_path, Ids(), (torch.ones(4, 3, dtype=torch.long),), dynamic_shapes=({0: Dim("rows", max=16)},)
    )
    loaded = open_model(tmp_path, CPU)
    assert loaded.folder.config.max_batch_size == 16 and loaded.folder.config.batchable is None
    (tmp_path / "config.toml").write_text("[model]\nmax_batch_size = 100\n")
    assert open_model(tmp_path, CPU).folder.config.max_batch_size == 16


@pytest.mark.parametrize("fixed", [1, 4])
def test_a_fixed_number_of_independent_rows_serves_any_number(tmp_path: Path, fixed: int) -> None:
    net = Net()
    program(tmp_path, net, (torch.randn(fixed, 3), torch.randn(fixed, 1)))
    loaded = open_model(tmp_path, CPU)
    config = loaded.folder.config
    assert (config.batchable, config.max_batch_size) == (False if fixed == 1 else None, fixed)
    assert arguments_of(loaded.model).names == ("x", "scale")
    for model in (loaded.model, copy.deepcopy(loaded.model)):
        for n in (0, 1, 3, 4, 9):
            x, scale = torch.randn(n, 3), torch.randn(n, 1)
            answer, expected = model(x, scale), net(x, scale)
            assert answer["y"].shape == (n, 2)
            torch.testing.assert_close(answer["y"], expected["y"])
            assert torch.equal(answer["scale"], scale)


def test_rows_that_depend_on_each_other_are_never_filled_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program(tmp_path, Mixing(), (torch.randn(4, 3),))
    loaded = open_model(tmp_path, CPU)
    assert not isinstance(loaded.model, FixedRows)
    assert loaded.folder.config.batchable is False
    assert "exported for exactly 4 rows" in caplog.text
    x = torch.randn(4, 3)
    torch.testing.assert_close(loaded.model(x), x - x.mean(0))
    with pytest.raises(AssertionError, match="Guard failed"):
        loaded.model(torch.randn(3, 3))


def test_ids_tell_by_the_example_that_they_were_exported_with(tmp_path: Path) -> None:
    net = Ids()
    alike = program(tmp_path / "alike", net, (torch.ones(4, 3, dtype=torch.long),))
    assert not isinstance(load_program(alike, CPU)[0], FixedRows)
    ids = torch.arange(12).reshape(4, 3) % 10
    model, _ = load_program(program(tmp_path / "apart", net, (ids,)), CPU)
    assert isinstance(model, FixedRows)
    torch.testing.assert_close(model(ids[:3]), net(ids[:3]))


def test_a_model_in_training_mode_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    save(export(model.train(), (torch.randn(4, 3),), dynamic_shapes=({0: Dim("n")},)), tmp_path / "model.pt2")
    load_program(tmp_path / "model.pt2", CPU)
    assert "exported of a model in training mode" in caplog.text
    caplog.clear()
    load_program(
        program(tmp_path / "eval", model, (torch.randn(4, 3),), dynamic_shapes=({0: Dim("n")},)), CPU
    )
    assert not caplog.text


def test_a_program_of_another_torch_says_which_is_here(tmp_path: Path) -> None:
    import zipfile

    file = program(tmp_path / "good", Ids(), (torch.ones(4, 3, dtype=torch.long),))
    with zipfile.ZipFile(file) as good, zipfile.ZipFile(tmp_path / "model.pt2", "w") as bad:
        for entry in good.infolist():
            content = good.read(entry)
            if entry.filename.endswith("models/model.json"):
                content = content.replace(
                    b'"schema_version": {"major": 8', b'"schema_version": {"major": 999'
                )
                content = content.replace(b'"major":', b'"major": 9')
            bad.writestr(entry, content)
    with pytest.raises(
        ConfigError, match=rf"this worker has torch {torch.__version__.split('+')[0]}.*export the model"
    ):
        load_program(tmp_path / "model.pt2", CPU)
