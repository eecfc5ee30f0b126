from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format

from libs.balancing import nodefile
from libs.proto.messages import BatchingParameters, MonitoringConfig
from libs.serving.versions import Policy
from services.tf_serving.__main__ import main
from services.tf_serving.config import tfrecord
from services.tf_serving.config.testing_golden import CASES, FOLDER, produce
from services.tf_serving.execution import batching_parameters
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import warmup
from services.tf_serving.serving import model_configs


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """Copies of two models, half_plus_two/7 and team/intents-69/7."""
    shutil.copytree(models / "half_plus_two" / "7", tmp_path / "models" / "half_plus_two" / "7")
    shutil.copytree(models / "intents" / "7", tmp_path / "models" / "team" / "intents-69" / "7")
    return tmp_path


def config(folder: Path, *more: str) -> int:
    return main(
        ["config", "--models", str(folder / "models"), "--out", str(folder / "out"), "--cores=2", *more]
    )


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_what_it_was(case: str, models: Path, tmp_path: Path) -> None:
    produced = produce(case, lambda name, path: shutil.copytree(models / name / "7", path), tmp_path)
    kept = {path.name: path.read_text() for path in sorted((FOLDER / case).iterdir())}
    # If it is to be otherwise: python -m services.tf_serving.config.testing_golden
    assert produced == kept


@pytest.mark.parametrize("case", CASES)
def test_the_messages_take_what_is_written_and_give_it_back(case: str) -> None:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    kinds = {"models.config": ModelServerConfig, "monitoring.config": MonitoringConfig}
    for path in (FOLDER / case).iterdir():
        text = path.read_text()
        if path.name.endswith("requests.txt"):
            messages = [text_format.Parse(line, PredictionLog()) for line in text.splitlines()]
            assert all(log.predict_log.request.inputs for log in messages)
        elif path.name in kinds:
            messages = [text_format.Parse(text, kinds[path.name]())]
        elif path.name.startswith("batching") or path.name.endswith("pbtxt"):
            messages = [text_format.Parse(text, BatchingParameters())]
            batching_parameters.parse(text)
        else:
            continue
        for message in messages:
            assert text_format.Parse(text_format.MessageToString(message), type(message)()) == message
    models = model_configs.read(FOLDER / case / "models.config")
    assert [str(model.base_path) for model in models] == [f"/models/{name}" for name in CASES[case][0]]


def test_the_gateways_reader_takes_the_node_file() -> None:
    lines, problems = nodefile.read((FOLDER / "gpu" / "nodefile.txt").read_bytes())
    assert problems == []
    assert [(line.task_id, line.timeout_ms, [str(e) for e in line.endpoints]) for line in lines] == [
        (70, 250, ["10.0.0.7:8500", "tensorflow.models:8500"]),
        (69, 250, ["10.0.0.7:8500", "tensorflow.models:8500"]),
    ]


def test_the_second_time_nothing_changes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert config(folder) == 0
    before = everything(folder)
    capsys.readouterr()
    assert config(folder) == 0
    assert everything(folder) == before
    assert "models.config: unchanged" in capsys.readouterr().out
    assert config(folder, "--dry-run") == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "0 of 6 files would change" in captured.err


def test_a_dry_run_shows_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(folder)
    assert config(folder, "--dry-run", "--task=half_plus_two=70") == 0
    assert everything(folder) == before
    captured = capsys.readouterr()
    assert '+    name: "half_plus_two-70"' in captured.out
    assert "tf_serving_warmup_requests: 0 -> " in captured.out
    assert config(folder) == 0
    capsys.readouterr()
    assert config(folder, "--dry-run", "--max-batch-size=8") == 0
    difference = capsys.readouterr().out
    assert "-max_batch_size { value: 64 }" in difference and "+max_batch_size { value: 8 }" in difference


def test_what_somebody_else_wrote_is_kept_until_one_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "models" / "half_plus_two" / "7" / warmup.FILE
    file.parent.mkdir()
    theirs = tfrecord.encode([b"\x0a\x00\x32\x00"])
    file.write_bytes(theirs)
    (folder / "out").mkdir()
    (folder / "out" / "models.config").write_text("# mine\n")
    assert config(folder) == 0
    assert file.read_bytes() == theirs and (folder / "out" / "models.config").read_text() == "# mine\n"
    assert f"{file}: kept: somebody else wrote it" in capsys.readouterr().out
    assert config(folder, "--overwrite") == 0
    assert warmup.read(file) != [b"\x0a\x00\x32\x00"]
    assert model_configs.read(folder / "out" / "models.config")


def test_a_warm_up_file_of_ours_follows_the_batch_sizes(folder: Path) -> None:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    tf = tensorflow()
    file = folder / "models" / "half_plus_two" / "7" / warmup.FILE
    for sizes, rows in (("powers", [1, 2, 4, 8, 16, 32, 64]), ("2,6", [2, 6]), ("none", [1, 64])):
        assert config(folder, f"--allowed-batch-sizes={sizes}") == 0
        read = [PredictionLog.FromString(r) for r in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
        tensors = [log.predict_log.request.inputs["x"] for log in read]
        assert [tf.make_ndarray(tensor).shape for tensor in tensors] == [(n, 1) for n in rows]
        assert read == [PredictionLog.FromString(r) for r in tf.compat.v1.io.tf_record_iterator(str(file))]
        assert not any(tf.make_ndarray(tensor).any() for tensor in tensors)


def test_only_what_cannot_be_refused_is_written_untried(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "models" / "team" / "intents-69" / "7" / warmup.FILE
    assert config(folder) == 0
    assert "intents-69 version 7: no warm-up request for prediction: its input label is a string" in (
        capsys.readouterr().err
    )
    assert not file.exists()
    assert config(folder, "--try-warm-up") == 0
    assert len(warmup.read(file)) == 2
    capsys.readouterr()
    assert config(folder) == 0  # what was tried once need not be again
    assert len(warmup.read(file)) == 2 and "no warm-up request" not in capsys.readouterr().err


def test_a_request_that_the_model_refuses_is_left_out(
    folder: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tf = tensorflow()

    class Strict(tf.Module):  # type: ignore[misc, name-defined]
        pass

    shutil.rmtree(folder / "models")
    serve = tf.function(
        lambda number: {"value": tf.strings.to_number(number)},
        input_signature=[tf.TensorSpec([None], tf.string, name="number")],
    ).get_concrete_function()
    tf.saved_model.save(Strict(), str(folder / "models" / "strict" / "1"), signatures=serve)
    assert config(folder, "--try-warm-up") == 0
    assert "it refuses zeros: " in capsys.readouterr().err
    assert not (folder / "models" / "strict" / "1" / warmup.FILE).exists()


def test_a_bad_model_writes_nothing_and_all_of_them_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = folder / "models" / "half_plus_two"
    shutil.copytree(good / "7", good / "8")
    (good / "8" / "saved_model.pb").write_bytes(b"\xff")
    (folder / "models" / "team" / "intents-69" / "7" / "assets" / "intents.txt").unlink()
    assert config(folder) == 1
    told = capsys.readouterr().err
    assert f"error: {good / '8' / 'saved_model.pb'}" in told or "8/saved_model.pb is corrupt" in told
    assert "assets/intents.txt, which is not there" in told and "nothing was written" in told
    assert not (folder / "out").exists()
    assert config(folder, "--skip-bad") == 1  # of two bad models none is left
    assert config(folder, "--policy=7", "--skip-bad") == 0
    told = capsys.readouterr().err
    assert "8/saved_model.pb is corrupt" in told and "it is not served" in told
    (model,) = model_configs.read(folder / "out" / "models.config")
    assert (model.name, model.policy.numbers) == ("half_plus_two", frozenset({7}))


def test_policies_are_of_all_models_or_of_one(folder: Path) -> None:
    shutil.copytree(folder / "models/half_plus_two/7", folder / "models/half_plus_two/9")
    assert (
        config(folder, "--policy=latest:2", "--policy=half_plus_two=7,9", "--label=half_plus_two=old:7") == 0
    )
    half, intents = model_configs.read(folder / "out" / "models.config")
    assert (half.policy.numbers, half.labels) == (frozenset({7, 9}), {"old": 7})
    assert intents.policy.latest == 2
    assert (folder / "models/half_plus_two/7" / warmup.FILE).exists()
    assert config(folder, "--policy=half_plus_two=all") == 0
    assert model_configs.read(folder / "out" / "models.config")[0].policy == Policy()


def test_paths_are_the_servers(folder: Path) -> None:
    assert config(folder, "--base-path=/models/", "--config-path=/etc/serving") == 0
    paths = [str(model.base_path) for model in model_configs.read(folder / "out" / "models.config")]
    assert paths == ["/models/half_plus_two", "/models/team/intents-69"]
    assert "--batching_parameters_file=/etc/serving/batching.config" in (
        (folder / "out" / "flags.txt").read_text()
    )
    base = folder / "models" / "half_plus_two"
    assert main(["config", "--models", str(base), "--out", str(folder / "one"), "--base-path=/m"]) == 0
    assert str(model_configs.read(folder / "one" / "models.config")[0].base_path) == "/m"


@pytest.mark.parametrize(
    ("more", "status", "complaint"),
    [
        (["--task=nobody=3"], 1, "'nobody' is no model here; there are half_plus_two, team/intents-69"),
        (["--name=half_plus_two=x-69"], 1, "are both task 69"),
        (["--policy=7,8"], 1, "there is no version 8"),
        (["--policy=half_plus_two=8"], 1, "there is no version 8"),
        (["--policy=nobody=all"], 1, "--policy nobody=: 'nobody' is no model here"),
        (["--label=half_plus_two=stable:9"], 1, "label 'stable' is for version 9, which is not served"),
        (["--label=nobody=stable:7"], 1, "--label nobody=: 'nobody' is no model here"),
        (["--label=half_plus_two=stable"], 2, "expected LABEL:VERSION, got 'stable'"),
        (["--task=half_plus_two"], 2, "expected MODEL=VALUE"),
        (["--base-path=models"], 2, "expected an absolute path"),
        (["--instances=10.0.0.7"], 2, "argument --instances"),
        (["--allowed-batch-sizes=4,2"], 2, "expected ascending numbers"),
        (["--allowed-batch-sizes=2,4", "--max-batch-size=8"], 2, "must end in --max-batch-size, 8"),
        (["--policy=newest"], 2, "argument --policy"),
        (["--cores=0"], 2, "expected a whole number from 1 to 1024"),
    ],
)
def test_what_cannot_be_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], status: int, complaint: str
) -> None:
    try:
        found = config(folder, *more)
    except SystemExit as error:
        found = int(str(error.code))
    assert found == status
    assert complaint in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_folder_without_models_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()
    assert config(tmp_path) == 1
    assert "holds no model: expected folders such as textcnn/1/" in capsys.readouterr().err
    assert main(["config", "--models", str(tmp_path / "no"), "--out", str(tmp_path / "out")]) == 1


def test_batching_is_for_models_whose_rows_can_share_a_run(
    folder: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models / "mixed" / "7", folder / "models" / "mixed" / "7")
    assert config(folder, "--batching=on") == 0
    assert "TensorFlow Serving refuses calls to mixed while batching is on" in capsys.readouterr().err
    assert config(folder) == 0
    own = sorted(path.parent.parent.name for path in folder.rglob("batching_params.pbtxt"))
    assert own == ["half_plus_two", "intents-69"]
    assert "--enable_per_model_batching_parameters=true" in (folder / "out" / "flags.txt").read_text()
    shutil.rmtree(folder / "models" / "half_plus_two")
    shutil.rmtree(folder / "models" / "team")
    assert config(folder) == 0
    assert "batching is off: no model has rows that could share a run" in capsys.readouterr().err
    assert "--enable_batching" not in (folder / "out" / "flags.txt").read_text()
