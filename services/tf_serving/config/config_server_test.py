"""A real server on what `config` wrote, asked by TensorFlow Serving's own stubs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from services.tf_serving.__main__ import main
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing import Server, predict_request

WAIT_S = 60.0


def flags(folder: Path) -> list[str]:
    lines = (folder / "flags.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def config(folder: Path, *more: str) -> list[str]:
    """Configure a server for folder/models; its flags."""
    command = ["config", "--models", str(folder / "models"), "--out", str(folder / "out"), "--cores=2"]
    assert main([*command, *more]) == 0
    return flags(folder / "out")


def asked(server: Server, call: Callable[[Any], Any]) -> Any:
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    with grpc.insecure_channel(server.address) as channel:
        return call(PredictionServiceStub(channel))


def test_a_server_runs_on_what_was_written_and_takes_up_an_export(models: Path, tmp_path: Path) -> None:
    tf = tensorflow()
    for name in ("half_plus_two", "intents"):
        shutil.copytree(models / name / "7", tmp_path / "models" / name / "7")
    given = config(
        tmp_path,
        *("--gpu", "--max-batch-size=8", "--try-warm-up", "--label=half_plus_two=stable:7"),
        *("--task=half_plus_two=70", "--task=intents=69"),
    )
    sentences = np.array([[b"rent", b"sell", b"", b"x"]] * 5)
    inputs = {"sentence": sentences, "label": np.array([b""] * 5)}
    loaded = tf.saved_model.load(str(tmp_path / "models" / "intents" / "7"))
    want = loaded.signatures["prediction"](**{name: tf.constant(value) for name, value in inputs.items()})
    with Server(*given, "--file_system_poll_wait_seconds=0.2") as server:

        def check(stub: Any) -> None:
            request = predict_request("half_plus_two-70", {"x": np.array([[1], [2], [3]], "f4")})
            request.model_spec.version_label = "stable"
            assert stub.Predict(request, timeout=20).outputs["y"].float_val[:] == [2.5, 3.0, 3.5]
            request = predict_request("intents-69", inputs, signature="prediction")
            outputs = stub.Predict(request, timeout=20).outputs
            for name, value in want.items():
                assert (tf.make_ndarray(outputs[name]) == value.numpy()).all(), name
            large = predict_request("half_plus_two-70", {"x": np.zeros((9, 1), "f4")})
            try:
                stub.Predict(large, timeout=20)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert "larger than maximum input batch size 8" in error.details()
            else:
                raise AssertionError("more rows than max_batch_size were taken")

        asked(server, check)
        assert server.log().count("recorded requests") == 2 and "by 4 recorded requests" in server.log()
        source = str(tmp_path / "models" / "intents" / "7")
        assert main(["export", source, "--out", str(tmp_path / "models"), "--name", "intents"]) == 0

        def follow(stub: Any) -> None:
            end = time.monotonic() + WAIT_S
            request = predict_request("intents-69", inputs, signature="prediction")
            while stub.Predict(request, timeout=20).model_spec.version.value != 8:
                assert time.monotonic() < end, server.log()
                time.sleep(0.1)

        asked(server, follow)
    assert main(["check", "--models-config", str(tmp_path / "out" / "models.config")]) == 0


def test_a_server_batches_by_model(models: Path, tmp_path: Path) -> None:
    for name in ("half_plus_two", "mixed"):
        shutil.copytree(models / name / "7", tmp_path / "models" / name / "7")
    given = config(tmp_path, "--max-batch-size=4", "--allowed-batch-sizes=2,4")
    assert "--enable_per_model_batching_parameters=true" in given
    with Server(*given) as server:

        def check(stub: Any) -> None:
            # Not batched: rows influence each other here, and would by the one that fills a batch up.
            request = predict_request("mixed", {"x": np.array([[1], [2], [6]], "f4")}, signature="centre")
            assert stub.Predict(request, timeout=20).outputs["y"].float_val[:] == [-2, -1, 3]
            many = predict_request("mixed", {"x": np.ones((9, 1), "f4")}, signature="total")
            assert stub.Predict(many, timeout=20).outputs["y"].float_val[:] == [9]
            calls = [
                stub.Predict.future(
                    predict_request("half_plus_two", {"x": np.array([[n]], "f4")}), timeout=20
                )
                for n in range(20)
            ]
            assert [call.result().outputs["y"].float_val[0] for call in calls] == [
                n / 2 + 2 for n in range(20)
            ]

        asked(server, check)
