"""Predict, Classify, Regress and MultiInference over a loaded servable: arrays in, arrays out.

Every protocol decodes to these calls and encodes what they answer; the checks, the signatures' rules and the
errors are here, once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from libs.proto.dtypes import DataType
from libs.serving.call import Call
from libs.serving.errors import InvalidArgument, Unimplemented
from services.tf_serving.execution.batch_rules import BatchRules
from services.tf_serving.execution.engine import Runner
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.model import methods
from services.tf_serving.model.methods import Classified
from services.tf_serving.model.signature import (
    DEFAULT_SIGNATURE,
    Shape,
    Signature,
    check_input_names,
    check_tensor,
    choose_outputs,
    find,
)
from services.tf_serving.serving.servables import Servable

R = TypeVar("R")

Tensor = tuple[int, Shape, NDArray[Any]]
"""A given input: its DataType, its shape, its values."""


class Plan(NamedTuple):
    """A checked call: what to run on which inputs, and which outputs come of it, in order."""

    signature: Signature
    outputs: tuple[str, ...]
    runner: Runner
    arrays: list[NDArray[Any]]
    batch_key: Hashable
    rules: BatchRules | None


@dataclass(frozen=True, slots=True)
class Task:
    """One part of a MultiInference: the model that it names, a signature (empty: the default one), a method."""

    model: str
    signature: str
    method: str


class InferenceObserver(Protocol):
    """Told about calls that went well, on the event loop's thread."""

    def ran(self, api: str, model: str, seconds: float) -> None:
        """`api` is Predict, Classify or Regress; the time is that of the run and of waiting for it."""

    def examples(self, model: str, count: int) -> None:
        """Of a MultiInference."""


class Inference:
    """The calls, for any servable.

    Args:
        check_method_name: refuse signatures that were made for another method; see `methods`.
        clock: of durations, in seconds.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        check_method_name: bool = False,
        observer: InferenceObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._check_method_name = check_method_name
        self._observer = observer
        self._clock = clock

    def plan(
        self,
        servable: Servable,
        signature_name: str,
        given: Mapping[str, Tensor],
        output_filter: Sequence[str],
    ) -> Plan:
        """Predict, up to the run: check tensors by input name against a signature.

        Args:
            signature_name: empty for the default one.
            output_filter: outputs to compute; empty for all.

        Raises:
            FailedPrecondition: no such signature. InvalidArgument: the inputs or the outputs are not its own.
        """
        engine = servable.engine
        signature = find(engine.signatures, signature_name)
        if self._check_method_name:
            methods.check_predict(signature)
        check_input_names(signature, given)
        outputs = choose_outputs(signature, output_filter)
        arrays = []
        for name in signature.inputs:
            if name in given:
                data_type, shape, array = given[name]
                check_tensor(signature, name, data_type, shape)
            else:
                array = engine.default_input(signature, name)
            arrays.append(array)
        # Of the engine, not of the version: one that was loaded anew is another model.
        batchable = signature.batchable and engine.batched
        batch_key = (id(engine), signature.name, outputs) if batchable else None
        runner = engine.runner(signature.name, outputs)
        return Plan(signature, outputs, runner, arrays, batch_key, engine.rules)

    def run(self, plan: Plan, call: Call) -> Awaitable[list[NDArray[Any]]]:
        """The values of the plan's outputs, in their order.

        Raises:
            ServingError: from the queue or the model; see Scheduler.run.
        """
        running = self._scheduler.run(
            plan.runner,
            plan.arrays,
            batch_key=plan.batch_key,
            deadline=call.deadline,
            cancelled=call.cancelled,
            rules=plan.rules,
        )
        return running if self._observer is None else self._timed(self._observer, "Predict", call, running)

    async def classify(
        self, servable: Servable, signature_name: str, examples: NDArray[Any], call: Call
    ) -> Classified:
        """Classify serialized tf.Examples, objects (n,).

        Raises:
            InvalidArgument: no such signature, or none to classify with, or its outputs are no
                classification. ServingError: from the queue or the model.
        """
        signature = methods.find_for_examples(servable.engine.signatures, signature_name)
        outputs = methods.classify_outputs(signature, check_method_name=self._check_method_name)
        results = await self._run(servable, [(signature, outputs)], examples, call, "Classify")
        return methods.classified(signature, len(examples), dict(zip(outputs, results, strict=True)))

    async def regress(
        self, servable: Servable, signature_name: str, examples: NDArray[Any], call: Call
    ) -> NDArray[np.float32]:
        """Regress serialized tf.Examples, objects (n,), to float32 (n,).

        Raises:
            InvalidArgument: no such signature, or none to regress with, or its output is no regression.
                ServingError: from the queue or the model.
        """
        signature = methods.find_for_examples(servable.engine.signatures, signature_name)
        outputs = methods.regress_outputs(signature, check_method_name=self._check_method_name)
        results = await self._run(servable, [(signature, outputs)], examples, call, "Regress")
        return methods.regressed(signature, len(examples), dict(zip(outputs, results, strict=True)))

    async def multi(
        self, servable: Servable, tasks: Sequence[Task], examples: NDArray[Any], call: Call
    ) -> list[Classified | NDArray[np.float32]]:
        """Several classifications and regressions of the same examples in one run of the model, in order.

        Raises:
            InvalidArgument: tasks name no model, different models, the same signature twice, one that does
                not exist or does not suit its method. Unimplemented: another method.
                ServingError: from the queue or the model.
        """
        parts: list[tuple[Signature, tuple[str, ...]]] = []
        for task in tasks:
            if not task.model:
                raise InvalidArgument("Found ModelSpec with an empty model name.")
            if task.model != tasks[0].model:
                raise InvalidArgument(
                    "All ModelSpecs in a MultiInferenceRequest must access the same model name."
                )
            parts.append(self._part(servable.engine.signatures, task, [part.name for part, _ in parts]))
        results = await self._run(servable, parts, examples, call)
        if self._observer is not None:
            self._observer.examples(servable.name, len(examples))
        answers: list[Classified | NDArray[np.float32]] = []
        for task, (signature, outputs) in zip(tasks, parts, strict=True):
            own = dict(zip(outputs, results, strict=False))
            results = results[len(outputs) :]
            finish = methods.classified if task.method == methods.CLASSIFY else methods.regressed
            answers.append(finish(signature, len(examples), own))
        return answers

    def _part(
        self, signatures: Mapping[str, Signature], task: Task, seen: Sequence[str]
    ) -> tuple[Signature, tuple[str, ...]]:
        name = task.signature or DEFAULT_SIGNATURE
        if name in seen:
            raise InvalidArgument(f"Duplicate evaluation of signature: {name}")
        if name not in signatures:
            raise InvalidArgument(f"Requested signature not found in model graph: {name}")
        signature = signatures[name]
        if task.method == methods.CLASSIFY:
            return signature, methods.classify_outputs(signature, check_method_name=self._check_method_name)
        if task.method == methods.REGRESS:
            return signature, methods.regress_outputs(signature, check_method_name=self._check_method_name)
        raise Unimplemented(f"Unsupported signature method_name: {task.method}")

    async def _run(
        self,
        servable: Servable,
        parts: Sequence[tuple[Signature, tuple[str, ...]]],
        examples: NDArray[Any],
        call: Call,
        api: str = "",
    ) -> list[NDArray[Any]]:
        """The outputs of each part, one part's after the other's, of one run on the same examples."""
        for signature, _ in parts:
            check_tensor(signature, methods.INPUTS, DataType.DT_STRING, examples.shape)
        wanted = tuple((signature.name, outputs) for signature, outputs in parts)
        engine = servable.engine
        batchable = engine.batched and all(signature.batchable for signature, _ in parts)
        running = self._scheduler.run(
            engine.joint_runner(wanted),
            [examples],
            batch_key=(id(engine), wanted) if batchable else None,
            deadline=call.deadline,
            cancelled=call.cancelled,
            rules=engine.rules,
        )
        if self._observer is None or not api:
            return await running
        return await self._timed(self._observer, api, call, running)

    async def _timed(self, observer: InferenceObserver, api: str, call: Call, running: Awaitable[R]) -> R:
        start = self._clock()
        results = await running
        observer.ran(api, call.subject, self._clock() - start)
        return results
