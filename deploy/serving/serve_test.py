"""The shell around TensorFlow Serving, with a server of the same behaviour to signals in its place."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
WAIT_S = 20.0

SERVER = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$TOLD.new"
mv "$TOLD.new" "$TOLD"
[ -z "${FAILS:-}" ] || exit "$FAILS"
exec sleep 300
"""


@contextmanager
def serving(folder: Path, *more: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    server = folder / "tensorflow_model_server"
    server.write_text(SERVER)
    server.chmod(0o755)
    given = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "TOLD": str(folder / "told"),
        "FLAGS_FILE": str(FOLDER / "config-cpu" / "flags.txt"),
        **env,
    }
    process = subprocess.Popen(["bash", str(FOLDER / "serve.sh"), *more], env=given, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT_S)


def told(folder: Path) -> list[str]:
    """The arguments that the server was started with."""
    end = time.monotonic() + WAIT_S
    while not (folder / "told").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    return (folder / "told").read_text().splitlines()


def test_the_server_gets_the_flags_of_the_file_and_those_of_the_container(tmp_path: Path) -> None:
    with serving(tmp_path, "--num_load_threads=2"):
        assert told(tmp_path) == [
            "--port=8500",
            "--rest_api_port=8501",
            "--enable_grpc_healthcheck_service=true",
            "--model_config_file=/etc/dl_inference/models.config",
            "--model_config_file_poll_wait_seconds=60",
            "--monitoring_config_file=/etc/dl_inference/monitoring.config",
            "--allow_version_labels_for_unavailable_models=true",
            "--enable_batching=true",
            "--batching_parameters_file=/etc/dl_inference/batching.config",
            "--tensorflow_intra_op_parallelism=1",
            "--num_load_threads=2",
        ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_on_for_a_while_when_it_is_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, DRAIN_S="2") as process:
        told(tmp_path)
        started = time.monotonic()
        process.send_signal(number)
        process.send_signal(number)  # impatience changes nothing
        assert process.wait(WAIT_S) == 0
        assert time.monotonic() - started > 1.5


def test_a_server_that_ends_by_itself_is_not_hidden(tmp_path: Path) -> None:
    with serving(tmp_path, FAILS="3") as process:
        assert process.wait(WAIT_S) == 3
    with serving(tmp_path, FLAGS_FILE=str(tmp_path / "nowhere")) as process:
        assert process.wait(WAIT_S) == 1


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_configuration_names_what_is_in_the_image(variant: str) -> None:
    folder = FOLDER / f"config-{variant}"
    flags = [line for line in (folder / "flags.txt").read_text().splitlines() if not line.startswith("#")]
    paths = [flag.partition("=")[2] for flag in flags if "=/" in flag]
    assert sorted(Path(path).name for path in paths) == [
        "batching.config",
        "models.config",
        "monitoring.config",
    ]
    for path in paths:
        assert path.startswith("/etc/dl_inference/") and (folder / Path(path).name).exists()
    models = (folder / "models.config").read_text()
    assert 'base_path: "/models/textcnn"' in models and 'name: "half_plus_two-70"' in models
    assert ("allowed_batch_sizes: 256" in (folder / "batching.config").read_text()) == (variant == "gpu")
