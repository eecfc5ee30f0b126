from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from libs.proto.kserve import InferRequest, InferTensor, Parameter, RequestedOutput
from libs.serving.errors import InvalidArgument
from services.torch_worker.protocols.kserve_forms import Form
from services.torch_worker.protocols.kserve_signature import Signature
from services.torch_worker.protocols.kserve_spec import Tensor

DECLARED = Signature(
    (Tensor("x", "FP32", (-1, 3)), Tensor("n", "INT64", (-1,))), (Tensor("y", "FP32", (-1, 1)),)
)


def request(outputs: tuple[str, ...] = (), **arrays: Any) -> Form:
    inputs = [InferTensor.of(name, array) for name, array in arrays.items()]
    return Form.of(InferRequest("m", inputs, outputs=[RequestedOutput(name) for name in outputs]))


def test_what_agrees() -> None:
    form = request(("y",), n=np.arange(5), x=np.zeros((5, 3), np.float32))
    DECLARED.check(form)
    DECLARED.check(form)
    Signature().check(request(("any",), anything=np.zeros(1)))


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        (request(x=np.zeros((1, 3), np.float32)), "lacks the input 'n'"),
        (request(z=np.zeros(1)), "unknown input 'z'; this model takes 'x', 'n'"),
        (request(n=np.arange(2), x=np.zeros((2, 3))), "'x' takes FP32, got FP64"),
        (
            request(n=np.arange(2), x=np.zeros((2, 4), np.float32)),
            r"'x' takes the shape \[-1, 3\], got \[2, 4\]",
        ),
        (request(n=np.arange(2), x=np.zeros(3, np.float32)), "takes the shape"),
        (request(("z",), n=np.arange(2), x=np.zeros((2, 3), np.float32)), "unknown output 'z'"),
    ],
)
def test_what_does_not(form: Form, problem: str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=problem):
            DECLARED.check(form)


def test_what_is_told_without_a_declaration() -> None:
    signature = Signature()
    assert [spec.shape for spec in signature.described_inputs] == [(-1, -1)]
    form = request(x=np.zeros((3, 5), np.int64))
    signature.saw(
        form, [InferTensor.of("a", np.zeros((2, 3, 1), np.float32)), InferTensor.of("b", np.zeros(7))]
    )
    signature.saw(request(other=np.zeros(1)), [])
    assert signature.described_inputs == [Tensor("x", "INT64", (-1, 5))]
    assert signature.described_outputs == [Tensor("a", "FP32", (2, -1, 1)), Tensor("b", "FP64", (7,))]
    assert DECLARED.described_inputs == DECLARED.inputs


@pytest.mark.parametrize(
    ("parameters", "priority", "timeout_s"),
    [
        ({}, 0, None),
        ({"priority": 3, "timeout": 1500}, 3, 0.0015),
        ({"priority": "-2", "timeout": 0}, -2, None),
    ],
)
def test_the_protocols_own_parameters(
    parameters: dict[str, Parameter], priority: int, timeout_s: float | None
) -> None:
    x = InferTensor.of("x", np.zeros(1))
    form = Form.of(InferRequest("m", [x], id="i", parameters={**parameters, "mine": True}))
    assert (form.priority, form.timeout_s) == (priority, timeout_s)
    assert form.meta() == {"tags": {}, "parameters": {"mine": True}, "puid": "i"}
    form.meta()["parameters"]["mine"] = False
    assert form.meta()["parameters"] == {"mine": True}


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (InferRequest("m", []), "no inputs"),
        (InferRequest("m", [InferTensor.of("x", np.zeros(1))] * 2), "input 'x' is there twice"),
        (
            InferRequest("m", [InferTensor.of("x", np.zeros(1))], outputs=[RequestedOutput("y")] * 2),
            "output 'y' is there twice",
        ),
        (
            InferRequest("m", [InferTensor.of("x", np.zeros(1), {"shared_memory_region": "r"})]),
            "shared_memory_region is not offered",
        ),
        (
            InferRequest(
                "m",
                [InferTensor.of("x", np.zeros(1))],
                outputs=[RequestedOutput("y", {"classification": 2})],
            ),
            "classification is not offered",
        ),
        *(
            (
                InferRequest("m", [InferTensor.of("x", np.zeros(1))], parameters={"priority": value}),
                "whole number",
            )
            for value in (1.5, "high", True, 2**63)
        ),
    ],
)
def test_what_no_request_may_say(request_: InferRequest, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        Form.of(request_)
