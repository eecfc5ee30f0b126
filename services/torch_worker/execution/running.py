"""Model calls for jobs: alone or shared, proven, within memory, and in parts where one failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from libs.serving.errors import Internal, InvalidArgument, ResourceExhausted, ServingError
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.compare import perturbed, same
from services.torch_worker.execution.exhaustion import RowLimits
from services.torch_worker.execution.jobs import Form, Job, alike, form_text, padded_form
from services.torch_worker.execution.padding import cut, follows, join_padded, mask_of, padded_length
from services.torch_worker.execution.sharing import Sharing
from services.torch_worker.execution.tensors import NotSplittableError, plain, plain_parts, split
from services.torch_worker.model.failures import failure, is_out_of_memory, together_failed
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.model.model_config import PaddingConfig

log = logging.getLogger(__name__)

# Requests of the first shared call. Each runs by itself too, one after the other, while the rest waits.
_CHECKED = 4
# Forms of input remembered; a model that takes more than these is not one to say what it takes.
_MAX_FORMS = 64


class Runner:
    """Runs a model for jobs. One for all instances; each call is given one of them, used by one thread at a time.

    Args:
        sharing: what is known about shared calls.
        hooks, folder: of the model.
        padding: as the folder asks for it.
        free_memory: see Engine.
    """

    def __init__(
        self,
        sharing: Sharing,
        hooks: Hooks,
        folder: Path,
        padding: PaddingConfig | None,
        free_memory: Callable[[], None],
    ) -> None:
        self._sharing = sharing
        self._custom = hooks.run_model is not None
        self._stage = hooks.model_call if self._custom else "the model"
        # Without a hook after it, outputs become answers at once, those of a whole batch in one go.
        self._plain = not hooks.postprocesses
        self._folder = folder
        self._padding = padding if padding is not None else PaddingConfig()
        self._mask = self._padding.mask
        self._free_memory = free_memory
        self._limits = RowLimits()
        # Forms that the model has answered.
        self._answered: dict[Form, None] = {}
        self._turn = 0

    def outputs(self, caller: ModelCaller, jobs: Sequence[Job]) -> list[Any]:
        """See `Engine.outputs`."""
        with torch.inference_mode():
            return self._run(caller, jobs)

    def _run(self, caller: ModelCaller, jobs: Sequence[Job]) -> list[Any]:
        sharing = self._sharing
        if len(jobs) == 1 or not sharing.shares:
            return [self._finished(self._alone(caller, job)) for job in jobs]
        padded = self._padded(jobs)
        if padded and not sharing.pads:  # they were queued together before that was found out
            return self._run_groups(caller, jobs)
        rows = sum([job.rows for job in jobs])
        allowed = self._limits.allowed(jobs[0].form)
        if allowed is not None and rows > allowed:
            return [result for lot in _lots(jobs, allowed) for result in self._run(caller, lot)]
        if sharing.unproven(padded > 0):
            if len(jobs) > _CHECKED:
                return self._run(caller, jobs[:_CHECKED]) + self._run(caller, jobs[_CHECKED:])
            return self._prove(caller, jobs, padded)
        return self._share(caller, jobs, rows, padded)

    def _run_groups(self, caller: ModelCaller, jobs: Sequence[Job]) -> list[Any]:
        """Run those together that need no padding for it."""
        groups: dict[Hashable, list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault(job.key, []).append(index)
        results: dict[int, Any] = {}
        for indexes in groups.values():
            answers = self._run(caller, [jobs[i] for i in indexes])
            results.update(zip(indexes, answers, strict=True))
        return [results[i] for i in range(len(jobs))]

    def _share(self, caller: ModelCaller, jobs: Sequence[Job], rows: int, padded: int) -> list[Any]:
        """One call for all, which is known to give the answers of single ones."""
        form = jobs[0].form
        due = self._sharing.due(_form(jobs, padded), padded > 0)
        try:
            output = self._call(caller, jobs, padded)
            each = [job.rows for job in jobs]
            if self._plain and not padded and not due:
                answers = plain_parts(output, each)
            else:
                parts = split(output, each)
                if padded:
                    following = self._sharing.following or ()
                    parts = [cut(part, job.length, following) for part, job in zip(parts, jobs, strict=True)]
                if due and not self._confirms(caller, jobs, parts, padded):
                    return self._run_groups(caller, jobs)
                answers = [self._finished(part) for part in parts]
            self._limits.fitted(form, rows)
            return answers
        except NotSplittableError as reason:
            self._sharing.stop(str(reason), padded > 0)
            return self._run_groups(caller, jobs)
        except BaseException as error:
            together_failed(self._stage, len(jobs), error, self._folder)
            exhausted = is_out_of_memory(error)
        # Behind the handler: the exception's frames hold on to the failed call's tensors.
        if exhausted:
            self._exhausted(form, rows)
        half = len(jobs) // 2
        return self._run(caller, jobs[:half]) + self._run(caller, jobs[half:])

    def _prove(self, caller: ModelCaller, jobs: Sequence[Job], padded: int) -> list[Any]:
        """Run some requests both ways and compare; they share calls from now on only if the answers are the same.

        Equal requests (a load test, a probe) would hide a model that mixes rows, so a changed copy of one goes with
        them; its answer is only compared.
        """
        witness = None
        if alike(jobs):
            largest = max(jobs, key=lambda job: job.rows)
            witness = replace(largest, data=perturbed(largest.data))
        together = jobs if witness is None else [*jobs, witness]
        parts, trouble, exhausted = [], "", False
        # First: a model that writes into its input does so here on a copy.
        try:
            parts = split(self._call(caller, together, padded), [job.rows for job in together])
        except NotSplittableError as reason:
            trouble = str(reason)
        except BaseException as error:
            trouble = f"a batch of {len(jobs)} requests failed, {type(error).__name__}: {error}"
            exhausted = is_out_of_memory(error)
        if exhausted:
            self._exhausted(jobs[0].form, sum(job.rows for job in together))
        outputs = [self._alone(caller, job) for job in jobs]
        if not exhausted and not any(isinstance(output, ServingError) for output in outputs):
            self._judge(caller, together, parts, outputs, trouble, padded)
        return [self._finished(output) for output in outputs]

    def _judge(
        self,
        caller: ModelCaller,
        jobs: Sequence[Job],
        parts: Sequence[Any],
        outputs: Sequence[Any],
        trouble: str,
        padded: int,
    ) -> None:
        """Decide by a first batch's parts (or what kept it from having any) and its requests' own outputs."""
        sharing = self._sharing
        if len(outputs) < len(jobs):  # the changed copy
            try:
                outputs = [*outputs, self._call(caller, jobs[-1:], 0)]
            except Exception as error:
                log.info(
                    "whether requests can share model calls stays open: a changed copy failed, %s", error
                )
                return
        if trouble:
            sharing.stop(trouble, padded > 0)
            return
        if not any(job.rows for job in jobs):
            return  # requests without rows prove nothing
        following = None
        if padded:
            short = next((i for i, job in enumerate(jobs) if job.rows and job.length < padded), None)
            if short is None:
                return
            try:
                following = follows(outputs[short], jobs[short].length, parts[short], padded)
                parts = [cut(part, job.length, following) for part, job in zip(parts, jobs, strict=True)]
            except NotSplittableError as reason:
                sharing.stop(str(reason), True)
                return
        for job, part, output in zip(jobs, parts, outputs, strict=True):
            if not same(part, output):
                sharing.stop(self._difference(caller, job, output), padded > 0)
                return
        sharing.prove(len(jobs), _form(jobs, padded), following)

    def _confirms(self, caller: ModelCaller, jobs: Sequence[Job], parts: Sequence[Any], padded: int) -> bool:
        """Whether a request of a shared call gets the same answer alone; if not, such calls stop."""
        candidates = [i for i, job in enumerate(jobs) if job.rows and not (padded and job.length == padded)]
        if not candidates:
            return True
        self._turn += 1
        chosen = candidates[self._turn % len(candidates)]
        output = self._alone(caller, jobs[chosen])
        if isinstance(output, ServingError) or same(parts[chosen], output):
            return True
        self._sharing.stop(self._difference(caller, jobs[chosen], output), padded > 0)
        return False

    def _difference(self, caller: ModelCaller, job: Job, output: Any) -> str:
        """Why a shared call's answers may differ from the single ones."""
        if same(self._alone(caller, job), output):
            return "a batch gave other answers than its requests one by one"
        return (
            "the model answers one request differently from call to call: dropout or another randomness is left on, or "
            "it keeps something between calls"
        )

    def _alone(self, caller: ModelCaller, job: Job) -> Any:
        """The model's output for one job, or the error in its place."""
        try:
            return self._call(caller, [job], 0)
        except BaseException as error:
            known = self._model_failure(job, error)
            exhausted = is_out_of_memory(error)
        if exhausted:
            self._free_memory()
        return known

    def _finished(self, output: Any) -> Any:
        if not self._plain or isinstance(output, ServingError):
            return output
        try:
            return plain(output)
        except BaseException as error:
            return failure("making the answer of the model's output", error, self._folder)

    def _call(self, caller: ModelCaller, jobs: Sequence[Job], padded: int) -> Any:
        """One model call for several jobs, with the first one's keyword arguments."""
        first = jobs[0]
        model_kwargs, hook_kwargs = first.model_kwargs, first.kwargs
        if padded:
            inputs = [join_padded([job.data for job in jobs], padded, self._padding.value, self._mask)]
        else:
            inputs = [job.data for job in jobs]
        if self._custom:
            hook_kwargs = {**hook_kwargs, "metas": [job.kwargs["meta"] for job in jobs]}
        if self._mask is not None and first.length >= 0 and not isinstance(first.data, dict):
            mask = mask_of([(job.rows, job.length) for job in jobs], padded or first.length).to(caller.device)
            model_kwargs, hook_kwargs = {**model_kwargs, self._mask: mask}, {**hook_kwargs, self._mask: mask}
        output = caller.call(inputs, model_kwargs, hook_kwargs)
        form = first.form
        if form is not None and form not in self._answered and len(self._answered) < _MAX_FORMS:
            self._answered[form] = None
        return output

    def _padded(self, jobs: Sequence[Job]) -> int:
        """The length that the jobs' sequences are filled up to; 0 where they are equally long, or not to be padded."""
        length = jobs[0].length
        if length < 0 or all(job.length == length for job in jobs):
            return 0
        return padded_length(max(job.length for job in jobs), self._padding.multiple_of)

    def _exhausted(self, form: Form | None, rows: int) -> None:
        allowed = self._limits.exhausted(form, rows)
        self._free_memory()
        log.warning("memory ran out in a call of %d rows; calls get %d at most for now", rows, allowed)

    def _model_failure(self, job: Job, error: BaseException) -> ServingError:
        """The error of a failed model call.

        An input of a form that the model never answered, while it answers others, is the caller's mistake.
        """
        known = failure(self._stage, error, self._folder)
        if isinstance(known, ResourceExhausted) and known is not error:
            return ResourceExhausted(
                f"{known.message}; {job.rows} rows of this size do not fit into memory, send fewer at a time"
            )
        answered, form = self._answered, job.form
        odd = form is not None and form not in answered and 0 < len(answered) < _MAX_FORMS
        if isinstance(known, Internal) and known is not error and form is not None and odd:
            good = form_text(next(iter(answered)))
            return InvalidArgument(
                f"the model does not take {form_text(form)}; it has answered {good}; {known.message}"
            )
        return known


def _form(jobs: Sequence[Job], padded: int) -> Form | None:
    """The form of the input of a shared call."""
    form = jobs[0].form
    return padded_form(form, padded) if padded and form is not None else form


def _lots(jobs: Sequence[Job], rows: int) -> list[Sequence[Job]]:
    """The jobs in order, in lots of so many rows at most; a job with more is a lot of its own."""
    lots: list[list[Job]] = []
    room = 0
    for job in jobs:
        if not lots or job.rows > room:
            lots.append([])
            room = rows
        lots[-1].append(job)
        room -= job.rows
    return list(lots)
