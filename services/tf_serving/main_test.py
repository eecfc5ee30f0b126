from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from services.tf_serving import flags, serve_flags
from services.tf_serving.__main__ import main
from services.tf_serving.options import Options, Pools, pools, usable_cores


def serve(base: Path, *more: str) -> int:
    return main(["serve", "--model-name", "m", "--model-base-path", str(base), "--port", "0", *more])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: COMMAND"),
        (["serve"], "one of these is required: --model-base-path, --model-config-file"),
        (["serve", "--model-name", " ", "--model-base-path", "x"], "argument --model-name: expected a name"),
        (["--model_base_path=x", "--batching_parameters_file=b"], "without --enable-batching"),
        (["--model_base_path=x", "--enable_per_model_batching_parameters"], "without --enable-batching"),
        (["--model_base_path=x", "--port=80", "--rest_api_port=80"], "are both 80"),
        (["--file_system_poll_wait_seconds=-1"], "expected seconds from 0 to 86400, got '-1'"),
        (["--load_library=a.so,,b.so"], "argument --load-library: expected a name"),
        (["save"], "invalid choice: 'save'"),
        (["serve", "--port", "70000"], "expected a whole number from 0 to 65535, got '70000'"),
        (["serve", "--port", "http"], "expected a whole number from 0 to 65535, got 'http'"),
        (["serve", "--max-batch-size=0"], "expected a whole number from 1 to 1000000, got '0'"),
        (["serve", "--batch_timeout_ms", "-1"], "expected milliseconds from 0 to 10000, got '-1'"),
        (["serve", "--drain-grace-s", "soon"], "expected seconds from 0 to 3600, got 'soon'"),
        (["serve", "--ports", "1"], "unrecognized arguments: --ports 1"),
        (["serve", "--enable_batching=yes"], "argument --enable-batching: expected true or false, got 'yes'"),
    ],
)
def test_bad_usage_ends_with_2_and_says_what_was_expected(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, lesson in ((["--help"], "textcnn-69"), (["serve", "--help"], "--enable-batching")):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert lesson in shown and "examples:" in shown


def test_what_the_files_tell_is_told_at_once(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrupt = tmp_path / "corrupt"
    shutil.copytree(models / "half_plus_two", corrupt)
    graph = corrupt / "7" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-20])
    (tmp_path / "empty").mkdir()
    started = time.monotonic()
    for base, complaint in (
        (tmp_path / "nowhere", "error: could not find the model base path"),
        (tmp_path / "empty", "error: no versions of the model found"),
        (models / "half_plus_two" / "7", "move it into"),
        (corrupt, "saved_model.pb is corrupt, or not a SavedModel"),
    ):
        assert serve(base) == 1
        assert complaint in capsys.readouterr().err
    assert time.monotonic() - started < 5


def test_mistakes_of_a_configuration_file_are_told_at_once(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "models.config"
    fine = f'config {{ name: "fine" base_path: "{models}/mixed" model_platform: "tensorflow" }}'
    lost = f'config {{ name: "lost" base_path: "{tmp_path}/lost" model_platform: "tensorflow" }}'
    none = (
        fine.replace("} ", "").replace("fine", "none")[:-1]
        + "model_version_policy { specific { versions: 9 } } }"
    )
    started = time.monotonic()
    for text, complaint in (
        ("model_config_list {\n config { nam: 1 }\n}", f"error: {file}:2:11 : "),
        (f"model_config_list {{\n{fine}\n{fine}\n}}", f"error: {file}:3: model_config_list.config[1].name: "),
        (
            f"model_config_list {{ {fine} {lost} }}",
            f"error: could not find the model base path {tmp_path}/lost",
        ),
        (f"model_config_list {{ {none} }}", "has version 7, but none that the policy chooses"),
    ):
        file.write_text(text)
        assert main([f"--model_config_file={file}", "--port=0"]) == 1
        assert complaint in capsys.readouterr().err
    assert main([f"--model_config_file={tmp_path}/nowhere", "--port=0"]) == 1
    assert "nowhere: No such file" in capsys.readouterr().err
    assert time.monotonic() - started < 10


def test_flags_may_be_written_as_tensorflow_serving_writes_them() -> None:
    base = ["serve", "--model_name=textcnn-69", "--model_base_path", "/models/text_cnn"]
    options = serve_flags.options(
        flags.parse([*base, "--enable_batching=true", "--tensorflow_intra_op_parallelism=3"])
    )
    assert (options.model_name, options.model_base_path) == ("textcnn-69", "/models/text_cnn")
    assert (options.max_batch_size, options.intra_op_threads, options.warm_up) == (64, 3, True)
    assert serve_flags.options(flags.parse([*base, "--enable-batching"])).max_batch_size == 64
    options = serve_flags.options(
        flags.parse([*base, "--enable_batching=false", "--enable_model_warmup=false"])
    )
    assert (options.max_batch_size, options.warm_up) == (None, False)


def test_serve_may_be_left_out_as_those_who_know_tensorflow_model_server_do() -> None:
    given = [
        "--port=8500",
        "--model_config_file=/m/models.config",
        "--load_library=/a.so,/b.so",
        "--load_library=/c.so",
    ]
    options = serve_flags.options(flags.parse(given))
    assert options == serve_flags.options(flags.parse(["serve", *given]))
    assert (options.model_name, options.model_base_path) == ("default", "")
    assert options.model_config_file == "/m/models.config"
    assert options.load_library == ("/a.so", "/b.so", "/c.so")


def test_files_are_found_from_where_they_were_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = serve_flags.options(flags.parse(["--model_base_path=models/m"]))
    assert options.model_base_path == str(tmp_path / "models" / "m")
    assert options.model_config_file == ""


def test_options_survive_the_way_to_the_serving_process() -> None:
    given = [
        "--model_base_path=/m",
        "--load_library=/a.so",
        "--enable_batching",
        "--file_system_poll_wait_seconds=0.5",
    ]
    options = serve_flags.options(flags.parse([*given, "--load_retry_interval_micros=1500000"]))
    assert (options.file_system_poll_wait_s, options.load_retry_interval_s) == (0.5, 1.5)
    assert Options.from_json(options.to_json()) == options


@pytest.mark.parametrize(
    ("cores", "chosen", "expected"),
    [
        (1, {}, (1, 1)),
        (2, {}, (2, 1)),
        (16, {}, (4, 4)),
        (16, {"model_threads": 1}, (1, 16)),
        (16, {"intra_op_threads": 2}, (4, 2)),
        (2, {"model_threads": 8}, (8, 1)),
    ],
)
def test_cores_go_to_calls_first(cores: int, chosen: dict[str, Any], expected: tuple[int, int]) -> None:
    assert pools(Options("m", "p", **chosen), cores) == Pools(*expected)


def test_there_is_at_least_one_core() -> None:
    assert usable_cores() >= 1
