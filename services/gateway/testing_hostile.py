"""What the hostile-input suites share: a gateway that is watched, and valid requests of each method to spoil."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import grpc

from libs.proto import messages
from services.gateway.methods import KSERVE, PREDICTION, SELDON_MODEL
from services.gateway.testing import WPAI_PATH, BackendProcess, GatewayProcess

TASK = 7
MIB = 1 << 20


def requests() -> dict[str, bytes]:
    """A valid request of each way to name a task, by path."""
    predict = messages.PredictRequest()
    predict.model_spec.name = f"textcnn-{TASK}"
    predict.model_spec.signature_name = "serving_default"
    tensor = predict.inputs["words"]
    tensor.dtype = messages.DataType.DT_INT32
    tensor.tensor_shape.dim.add().size = 1
    tensor.tensor_shape.dim.add().size = 8
    tensor.int_val.extend([5, 300, 70000, 1, 0, 2, 9, 4])
    seldon = messages.SeldonMessage()
    seldon.meta.puid = "a1b2"
    seldon.meta.tags["lang"].string_value = "zh"
    seldon.meta.tags["taskId"].number_value = TASK
    seldon.data.names.extend(["x", "y"])
    seldon.data.tensor.shape.extend([1, 2])
    seldon.data.tensor.values.extend([0.5, -1.25])
    infer = messages.ModelInferRequest(model_name=f"resnet-{TASK}", id="r1")
    given = infer.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    given.contents.fp32_contents.extend([1.0, 2.0, 3.0, 4.0])
    infer.raw_input_contents.append(b"\x01\x02\x03\x04")
    one, two, three = (m.SerializeToString(deterministic=True) for m in (predict, seldon, infer))
    return {
        WPAI_PATH + "Predict": one,
        WPAI_PATH + "PytorchPredict": two,
        WPAI_PATH + "CaffePredict": two,
        WPAI_PATH + "TisPredict": three,
        f"/{PREDICTION}/Predict": one,
        f"/{SELDON_MODEL}/Predict": two,
        f"/{KSERVE}/ModelInfer": three,
    }


class Watched:
    """A gateway whose Envoy must stay the same process, of about the same size, and answer."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.address = gateway.address
        self.envoy = _child(gateway.process.pid, "envoy")

    @property
    def memory(self) -> int:
        """Envoy's resident memory, bytes."""
        return int(Path(f"/proc/{self.envoy}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def check(self) -> None:
        """The same Envoy answers a good call, at once."""
        answer = self.gateway.predict(f"textcnn-{TASK}", b"well", timeout=20.0)
        assert answer.code == grpc.StatusCode.OK, answer
        assert answer.took_s < 10.0
        assert _child(self.gateway.process.pid, "envoy") == self.envoy, "Envoy was restarted"

    @contextlib.contextmanager
    def unharmed(self, growth: int = 48 * MIB) -> Iterator[None]:
        """Whatever the block does, Envoy answers after it and has not grown by more than so many bytes."""
        self.check()
        before = self.memory
        yield
        self.check()
        assert self.memory - before < growth, f"Envoy grew by {(self.memory - before) / MIB:.0f} MiB"


def _child(pid: int, name: str) -> int:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
                found += [int(child) for child in (task / "children").read_text().split()]
    for member in found:
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{member}/comm").read_text().startswith(name):
                return member
    raise AssertionError(f"no {name} below process {pid}")


@contextlib.contextmanager
def watched(folder: Path, config: str = "") -> Iterator[Watched]:
    """A gateway with task TASK; `config` is more of its gateway.toml."""
    with BackendProcess() as backend:
        path = folder / "gateway.toml"
        path.write_text(f'[tasks.{TASK}]\ntimeout_ms = 20000\nendpoints = ["{backend.address}"]\n{config}')
        with GatewayProcess(path) as gateway:
            yield Watched(gateway)
