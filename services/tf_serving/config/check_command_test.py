from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.tf_serving.__main__ import main
from services.tf_serving.config import tfrecord
from services.tf_serving.model import warmup
from services.tf_serving.testing import predict_request
from services.tf_serving.testing_recipes import example

MODELS_CONFIG = """\
model_config_list {
  config {
    name: "half-70"
    base_path: "/models/half"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 7 versions: 8 } }
    version_labels { key: "stable" value: 7 }
  }
  config {
    name: "intents"
    base_path: "/models/intents"
    model_platform: "tensorflow"
  }
}
"""


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """half/7, half/8, intents/7 in models/, and a models.config of them that is right."""
    for place in ("half/7", "half/8", "intents/7"):
        name = "intents" if "intents" in place else "half_plus_two"
        shutil.copytree(models / name / "7", tmp_path / "models" / place)
    (tmp_path / "models.config").write_text(MODELS_CONFIG)
    return tmp_path


@pytest.fixture
def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    """From the text of models.config, and further arguments, to the exit status and the lines that were told, with the
    folder's name left out."""

    def run(text: str, *more: str) -> tuple[int, list[str]]:
        (folder / "models.config").write_text(text)
        files = ["--models-config", str(folder / "models.config"), "--models", str(folder / "models")]
        status = main(["check", *files, *more])
        captured = capsys.readouterr()
        told = captured.err if status else captured.out
        return status, [line.replace(f"{folder}/", "") for line in told.splitlines()]

    return run


Check = Callable[..., tuple[int, list[str]]]


def errors(lines: list[str]) -> list[str]:
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def test_what_is_right_is_summed_up(folder: Path, check: Check) -> None:
    (folder / "batching.config").write_text("max_batch_size { value: 8 } allowed_batch_sizes: [4, 8]")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    status, told = check(
        MODELS_CONFIG,
        *("--batching-config", str(folder / "batching.config")),
        *("--monitoring-config", str(folder / "monitoring.config")),
    )
    assert status == 0
    assert told == [
        "batching.config: batches of up to 8 rows (4, 8), as many as cores at a time, part ones wait 0 us, "
        "10 may be queued",
        "monitoring.config: metrics at /monitoring/prometheus/metrics of the REST port",
        "half-70: /models/half, version 7 (stable), 8",
        "  serving_default: x float [?,1] -> y float [?,1]",
        "intents: /models/intents, version 7",
        "  prediction: label string [?], sentence string [?,4] -> output string [?,3], score float [?,3]",
    ]


@pytest.mark.parametrize(
    ("before", "after", "mistakes"),
    [
        (
            '    base_path: "/models/half"\n',
            "",
            [
                "2: model_config_list.config[0].base_path: Expected model half-70 to have an absolute path or URI; "
                "got base_path()="
            ],
        ),
        (
            "/models/half",
            "models/half",
            [
                "4: model_config_list.config[0].base_path: Expected model half-70 to have an absolute path or URI; "
                "got base_path()=models/half"
            ],
        ),
        (
            "/models/half",
            "/models/lost",
            [
                "4: model_config_list.config[0].base_path: could not find the model base path models/lost",
            ],
        ),
        (
            '"intents"',
            '"half-70"',
            [
                "10: model_config_list.config[1].name: Illegal to list model half-70 multiple times in config list",
            ],
        ),
        (
            "versions: 8",
            "versions: 9\n versions: 10",
            [
                "6: model_config_list.config[0].model_version_policy.specific.versions: version 9 is not in "
                "models/half, which has 7, 8",
                "7: model_config_list.config[0].model_version_policy.specific.versions: version 10 is not in "
                "models/half, which has 7, 8",
            ],
        ),
        (
            "value: 7 }",
            "value: 6 }",
            [
                "7: model_config_list.config[0].version_labels: label 'stable' is for version 6, which is not "
                "served: served are 7, 8",
            ],
        ),
        (
            "specific { versions: 7 versions: 8 }",
            "latest {}",
            [
                "7: model_config_list.config[0].version_labels: label 'stable' is for version 7, which is not "
                "served: served are 8",
            ],
        ),
        (
            'name: "half-70"',
            'nam: "half-70"',
            [
                "2: model_config_list.config[0].name: expected a name",
                "3: model_config_list.config[0].nam: ModelConfig has no field 'nam': did you mean name?",
            ],
        ),
        (
            '    model_platform: "tensorflow"\n  }',
            "  }",
            [
                "9: model_config_list.config[1].model_platform: Illegal setting neither "
                "ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform. Expected "
                'model_platform: "tensorflow"',
            ],
        ),
        ("  config {\n", "  config\n", ["3: expected : or { after config, got name"]),
    ],
)
def test_each_mistake_has_its_line(check: Check, before: str, after: str, mistakes: list[str]) -> None:
    assert before in MODELS_CONFIG
    status, told = check(MODELS_CONFIG.replace(before, after, 1))
    assert status == 1
    assert errors(told) == [f"models.config:{mistake}" for mistake in mistakes]


def test_all_mistakes_of_all_files_are_told_at_once(folder: Path, check: Check) -> None:
    (folder / "batching.config").write_text(
        "max_batch_size { value: 8 }\nallowed_batch_sizes: [4, 2]\nx: 1\n"
    )
    (folder / "monitoring.config").write_text('prometheus_config { path: "metrics" enabled: true }')
    (folder / "models" / "half" / "8" / "saved_model.pb").write_bytes(b"\xff")
    (folder / "models" / "intents" / "7" / "assets" / "intents.txt").unlink()
    text = MODELS_CONFIG.replace('"half-70"', '"half-70" nam: 1')
    status, told = check(
        text,
        *("--batching-config", str(folder / "batching.config")),
        *("--monitoring-config", str(folder / "monitoring.config")),
    )
    assert status == 1
    found = errors(told)
    assert [line.partition(": ")[0] for line in found] == [
        *["batching.config:2"] * 2,
        "batching.config:3",
        *["monitoring.config:1"] * 2,
        "models.config:3",
        "models.config:4",
        "models.config:11",
    ]
    assert "version 8: models/half/8/saved_model.pb is corrupt" in found[6]
    assert "its graph reads assets/intents.txt" in found[7]
    assert told[-1] == "8 mistakes"


def test_a_model_that_no_config_names_is_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "models" / "half", folder / "models" / "other")
    file = str(folder / "models.config")
    assert main(["check", "--models-config", file, "--models", str(folder / "models")]) == 0
    assert f"{folder}/models/other is not in {file}" in capsys.readouterr().err
    assert main(["check", "--models-config", file]) == 1
    assert "if that is the server's path, --models DIR" in capsys.readouterr().err


def test_files_that_are_none_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bytes").write_bytes(b"\xff\xfe")
    (folder / "empty").write_text("")
    for name, complaint in (("nowhere", "No such file"), ("bytes", "not text"), ("empty", "names no model")):
        assert main(["check", "--models-config", str(folder / name)]) == 1
        assert complaint in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check", "--models", str(folder)])
    assert "one of these is required" in capsys.readouterr().err


def log(kind: str, request: Any) -> bytes:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    made = PredictionLog()
    getattr(made, kind).request.CopyFrom(request)
    return bytes(made.SerializeToString())


def predict(**inputs: Any) -> bytes:
    return log("predict_log", predict_request("whatever", inputs))


def write(folder: Path, *records: bytes) -> None:
    file = folder / "models" / "half" / "7" / warmup.FILE
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(tfrecord.encode(records))


def test_warm_up_requests_that_do_not_fit_are_told(folder: Path, check: Check) -> None:
    good = predict(x=np.zeros((3, 1), "f4"))
    other = predict_request("m", {"x": np.zeros((1, 1), "f4")}, signature="other")
    write(
        folder,
        good,
        predict(x=np.zeros((1, 2), "f4")),
        predict(x=np.zeros((1, 1), "i4")),
        predict(y=np.zeros((1, 1), "f4")),
        predict(x=np.zeros((1, 2), "f4")),
        log("predict_log", other),
        log("predict_log", predict_request("m", {"x": np.zeros((1, 1), "f4")}, outputs=("z",))),
        b"\x0a\xff",
        b"",
        predict(x=np.zeros((9, 1), "f4")),
    )
    (folder / "batching.config").write_text("max_batch_size { value: 8 }")
    status, told = check(MODELS_CONFIG, "--batching-config", str(folder / "batching.config"))
    assert status == 1
    file = "models/half/7/assets.extra/tf_serving_warmup_requests"
    # Of protobuf's own words, and TensorFlow Serving's long ones, the beginning.
    assert [
        line.removeprefix(f"{file}: ").split(". ")[0].split(" with type")[0] for line in errors(told)
    ] == [
        'records 2, 5: input "x" of signature "serving_default" has the wrong shape: expected [?,1] but [1,2] is '
        "given",
        'record 3: Expects arg[0] to be float but int32 is provided (input "x" of signature "serving_default")',
        "record 4: Signature input alias: x(feed name: serving_default_x:0) not found in request and no default "
        "value provided",
        'record 6: Serving signature key "other" not found',
        "record 7: output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
        "record 8: not a tensorflow.serving.PredictionLog: Error parsing message",
        "record 9: a log of no type: expected one of predict_log, classify_log, regress_log, multi_inference_log",
        'record 10: input "x" has 9 rows: max_batch_size is 8',
    ]


def test_a_warm_up_file_that_is_none_is_told(folder: Path, check: Check) -> None:
    file = folder / "models" / "half" / "7" / warmup.FILE
    file.parent.mkdir()
    for content, complaint in ((b"x" * 40, "cannot read"), (b"", "it holds no record")):
        file.write_bytes(content)
        status, told = check(MODELS_CONFIG)
        assert status == 1 and complaint in errors(told)[0]
    write(folder, *[predict(x=np.zeros((1, 1), "f4"))] * 1001)
    assert "1001 records: expected at most 1000" in errors(check(MODELS_CONFIG)[1])[0]


def test_requests_with_examples_are_held_against_their_signatures(
    recipe: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
    from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
    from tensorflow_serving.apis.regression_pb2 import RegressionRequest

    shutil.copytree(recipe("half_plus_two_cpu"), tmp_path / "half" / "7")
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path}/half" model_platform: "tensorflow" }} }}'
    )
    file = tmp_path / "half" / "7" / warmup.FILE
    file.parent.mkdir()

    def filled(request: Any, signature: str) -> Any:
        request.input.example_list.examples.append(example(x=1.0))
        if not isinstance(request, MultiInferenceRequest):
            request.model_spec.signature_name = signature
        return request

    both = filled(MultiInferenceRequest(), "")
    for method, name in (("classify", "classify_x_to_y"), ("regress", "regress_x_to_y")):
        task = both.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.signature_name = name
    good = [
        log("classify_log", filled(ClassificationRequest(), "classify_x_to_y")),
        log("regress_log", filled(RegressionRequest(), "regress_x_to_y")),
        log("multi_inference_log", both),
    ]
    file.write_bytes(tfrecord.encode(good))
    assert main(["check", "--models-config", str(config), "--play"]) == 0
    assert "version 7 is warmed up by 3 requests" in capsys.readouterr().out
    empty = ClassificationRequest()
    empty.model_spec.signature_name = "classify_x_to_y"
    both.tasks[0].method_name = "tensorflow/serving/predict"
    both.tasks[1].model_spec.signature_name = "nothing"
    file.write_bytes(
        tfrecord.encode(
            [
                log("classify_log", filled(ClassificationRequest(), "serving_default")),
                log("regress_log", filled(RegressionRequest(), "classify_x_to_y")),
                log("classify_log", empty),
                log("multi_inference_log", both),
                log("multi_inference_log", filled(MultiInferenceRequest(), "")),
            ]
        )
    )
    assert main(["check", "--models-config", str(config)]) == 1
    told = capsys.readouterr().err
    for complaint in (
        "record 1: ",
        "record 2: ",
        "record 3: Input is empty.",
        "record 4: a task's method_name is 'tensorflow/serving/predict'",
        "record 4: No signature was found with the name: nothing",
        "record 5: it has no task",
    ):
        assert complaint in told


def test_playing_finds_what_no_look_at_the_files_does(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models / "mixed" / "7", tmp_path / "models" / "mixed" / "7")
    config = tmp_path / "models.config"
    config.write_text(
        'model_config_list { config { name: "m" base_path: "/models/mixed" model_platform: "tensorflow" } }'
    )
    file = tmp_path / "models" / "mixed" / "7" / warmup.FILE
    file.parent.mkdir()
    request = predict_request("m", {"i": np.array([3], "i4")}, signature="pick")
    file.write_bytes(tfrecord.encode([log("predict_log", request)]))
    command = ["check", "--models-config", str(config), "--models", str(tmp_path / "models")]
    assert main(command) == 0
    assert main([*command, "--play"]) == 1
    assert "recorded request 1 cannot be answered" in capsys.readouterr().err


def test_batching_that_does_not_fit_the_models_is_noted(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mixed", "half_plus_two"):
        shutil.copytree(models / name / "7", tmp_path / "models" / name / "7")
    assert main(["config", "--models", str(tmp_path / "models"), "--out", str(tmp_path)]) == 0
    files = ["--models-config", str(tmp_path / "models.config")]
    files += ["--batching-config", str(tmp_path / "batching.config")]
    assert main(["check", *files]) == 0
    assert "TensorFlow Serving refuses calls to total" in capsys.readouterr().err
    assert main(["check", *files, "--per-model-batching"]) == 0
    assert "mixed/7 is not batched: it has no batching_params.pbtxt" in capsys.readouterr().err
    (tmp_path / "models" / "half_plus_two" / "7" / "batching_params.pbtxt").write_text("max_batch_size: 8")
    assert main(["check", *files, "--per-model-batching"]) == 1
    assert "batching_params.pbtxt:1: max_batch_size: is a message" in capsys.readouterr().err
