from __future__ import annotations

from pathlib import Path

import pytest
import torch

from services.torch_worker.__main__ import main
from services.torch_worker.testing import DOUBLER, make_folder


def lines_of(text: str) -> dict[str, str]:
    return {line[:16].strip(): line[17:] for line in text.splitlines()}


def test_check_says_what_a_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(
        tmp_path,
        DOUBLER,
        "Doubler()",
        processor="def preprocess(x, **kwargs):\n    return x\n",
        config="[model]\nmax_batch_size = 8\n",
    )
    (tmp_path / "requirements.txt").write_text("numpy\n")
    assert main(["check", "--model-dir", str(tmp_path)]) == 0
    said = lines_of(capsys.readouterr().out)
    assert said["folder"] == str(tmp_path)
    assert said["model"].startswith("model.pth, pickle, ")
    assert (said["class"], said["forward"]) == ("net.Doubler", "forward(x)")
    assert said["parameters"] == "12 float32; 48 bytes with buffers, on cpu"
    assert said["hooks"] == "preprocess (processor.py)"
    assert said["batches"] == "requests share model calls if the first shared ones give the same answers"
    assert said["config.toml"] == "max_batch_size = 8"
    assert said["requirements.txt"] == "met"


def test_check_of_a_class_and_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "My.py").write_text(
        "class My:\n    def predict(self, X, names): return X\n    def tags(self): return {}\n"
    )
    assert main(["check", "--model-dir", str(tmp_path)]) == 0
    said = lines_of(capsys.readouterr().out)
    assert said["class"] == "My.My, with predict, tags"
    assert (
        said["batches"]
        == "requests share no calls: predict is the folder's own code (batchable = true lets them)"
    )
    (tmp_path / "2").mkdir()
    traced = torch.jit.trace(torch.nn.ReLU(), torch.ones(1))  # type: ignore[no-untyped-call]
    traced.save(tmp_path / "2" / "model.pt")
    (tmp_path / "2" / "config.toml").write_text("[model]\nbatchable = false\n")
    (tmp_path / "3").mkdir()
    assert main(["check", "--model-dir", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "model.pt, TorchScript, " in output.out and lines_of(output.out)["class"] == "ReLU"
    assert "requests are never shared" in output.out
    assert output.err.startswith(f"error: {tmp_path / '3' / 'model.pth'}: no such file")


def test_check_says_why_a_folder_cannot_be_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()")
    assert main(["check", "--model-dir", str(tmp_path), "--weights-only"]) == 1
    assert "with --weights-only it is not read" in capsys.readouterr().err
    assert main(["check", "--model-dir", str(tmp_path), "--device", "cuda:99"]) == 1
    assert "--device cuda:99" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["check", "--model-dir", str(tmp_path), "--device", "gpu"])
    assert "expected cpu, cuda, cuda:N or cuda:N,N, got 'gpu'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        ('[warmup]\nfiles = ["no.npy"]\n', [], "no.npy: cannot be read as a recorded request"),
        ("[model]\npreferred_batch_sizes = [128]\n", [], "at most max_batch_size, 64"),
        ("", ["--max-batch-size", "4", "--preferred-batch-sizes", "8"], "at most max_batch_size, 4"),
    ],
)
def test_check_refuses_what_serve_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, flags: list[str], message: str
) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()", config=config)
    assert main(["check", "--model-dir", str(tmp_path), *flags]) == 1
    output = capsys.readouterr()
    assert message in output.err and output.out == ""


def test_check_of_one_folder_goes_on_after_code_that_ends_the_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("1", "2"):
        make_folder(tmp_path / version, DOUBLER, "Doubler()")
    (tmp_path / "1" / "processor.py").write_text("raise SystemExit(0)\n")
    assert main(["check", "--model-dir", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert f"folder           {tmp_path / '2'}" in output.out
    assert "processor.py: cannot be imported: SystemExit" in output.err


def test_prepare_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--model-dir", str(tmp_path)]) == 0
    assert "no requirements.txt, nothing to do" in capsys.readouterr().out
    (tmp_path / "requirements.txt").write_text("numpy\n")
    assert main(["prepare", "--model-dir", str(tmp_path)]) == 0
    assert "installed nothing, all is there" in capsys.readouterr().out
    (tmp_path / "requirements.txt").write_text("numpy<1\n")
    assert main(["prepare", "--model-dir", str(tmp_path)]) == 1
    assert "error: " in capsys.readouterr().err
    assert main(["prepare", "--model-dir", str(tmp_path / "absent")]) == 1
