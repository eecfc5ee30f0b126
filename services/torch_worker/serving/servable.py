"""One loaded version of a model, ready to answer: preprocess, share a model call, postprocess, encode. No protocol
and no transport here.

Stages, each a `Batcher`. Where the folder has a preprocess hook, it runs on hook threads, in parallel with the
model; without one the event loop makes the job itself, which costs microseconds. The model stage joins jobs of one
key into a model call and encodes the answers, all on the model's thread. A postprocess hook runs there too, unless it
is slow: then on hook threads, beside the next call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libs.serving.batcher import Batcher, BatchObserver, BatchPolicy
from libs.serving.call import Call
from libs.serving.errors import ServingError
from libs.serving.metrics import StageStats
from services.torch_worker.execution.engine import Engine, Job
from services.torch_worker.execution.jobs import size_of
from services.torch_worker.model.model_config import TensorSpec
from services.torch_worker.serving.pace import Pace
from services.torch_worker.serving.quick import Quick
from services.torch_worker.serving.request_log import RequestLog
from services.torch_worker.serving.turn import Busy, Turn

# Requests that a hook thread takes at a time: with more, one thread would run slow hooks one after the other
# while its neighbour sleeps.
_HOOK_GROUP = 1
# How long the loop waits for the model to come free: as long as a call of a quick model may take.
_PATIENCE_S = 0.002


@dataclass(slots=True)
class Request:
    """One inference, whatever protocol carried it.

    Attributes:
        payload: array (maybe a read-only view), dict of named arrays, bytes, str or JSON value.
        meta: what the hooks get as kwargs["meta"]; has at least the key "tags", a dict.
        encode: makes the response message of a result and the folder's class_names. Called on the model's thread (or
            the event loop's, for lone requests); raises ServingError.
        priority: smaller is sooner; 0 is what requests have that say nothing.
    """

    payload: Any
    meta: dict[str, Any]
    encode: Callable[[Any, tuple[str, ...] | None], bytes]
    priority: int = 0


STAGES = ("preprocess", "model", "postprocess")
"""Parts of a request's time that are measured; a run of the model serves a batch."""

Task = tuple[Request, Job]


@dataclass(slots=True)
class _Unfinished:
    """A model's output whose hooks run on another thread than the model."""

    output: Any


_Finish = tuple[Request, Job, Any]


class Servable:
    """Serves one engine.

    Args:
        engine: what runs.
        policy: bounds of the model's queue. The queue before preprocess is bounded by the same number, in
            requests.
        hook_threads: threads that run preprocess.
        thread_init: called first on each thread that runs preprocess: PyTorch keeps its number of threads by
            calling thread.
        instance_init: called first on each thread that runs the model, with the number of the instance that it
            runs.
        inline: whether calls of a quick model may run on the event loop's thread; see `quick` and `turn`. Not
            for folders with hooks, which may wait for something.
        observer: told about the model's batches.
        hook_observer: told about preprocess's groups.
        inputs, outputs: what the folder declares of them, for protocols that describe models.
        request_log: writes lines about requests; None: nothing does.
        stages: counts how long each of STAGES takes.
        on_closed: called at the end of close, once no thread runs the version's code any more.

    Attributes:
        version: its number, as protocols write it.
    """

    def __init__(
        self,
        engine: Engine,
        policy: BatchPolicy,
        *,
        hook_threads: int = 1,
        thread_init: Callable[[], None] | None = None,
        instance_init: Callable[[int], None] | None = None,
        inline: bool = False,
        observer: BatchObserver | None = None,
        hook_observer: BatchObserver | None = None,
        inputs: Sequence[TensorSpec] = (),
        outputs: Sequence[TensorSpec] = (),
        request_log: RequestLog | None = None,
        stages: StageStats | None = None,
        on_closed: Callable[[], None] | None = None,
    ) -> None:
        self.version = "1"
        self._on_closed = on_closed
        self.inputs = inputs
        self.outputs = outputs
        self._request_log = request_log
        self._stages = stages if stages is not None else StageStats("", STAGES)
        self._engine = engine
        self._max_rows = policy.max_batch_size
        self._observer = observer
        self._quick = Quick()
        self._inline = inline
        # Held while an instance runs: the event loop's thread and the instance's own never run it together.
        self._running = [threading.Lock() for _ in range(engine.instances)]
        self._observing = threading.Lock()
        # Requests being served; and those of them on their way over the model's threads whose calls may be long.
        self._present = 0
        self._long = 0
        self._instance_init = instance_init if instance_init is not None else _nothing
        self._loop_initialised = False
        self._model: Batcher[Task, bytes | _Unfinished] = Batcher(
            [self._runner(instance) for instance in range(engine.instances)],
            policy,
            size=self._size,
            key=self._key,
            observer=observer,
            name="model",
        )
        self._turn: Turn[Task, bytes] = Turn(
            self._run_here,
            self._run_elsewhere,
            max_rows=policy.max_batch_size,
            max_waiting_rows=policy.max_queue_rows,
            clock=time.monotonic,
            dropped=self._dropped,
        )
        self._hooks: Batcher[Request, Job] | None = None
        if engine.preprocesses:
            group = policy.max_batch_size if engine.prepares_many else _HOOK_GROUP
            self._hooks = Batcher(
                self._prepare_group,
                BatchPolicy(group, max(policy.max_queue_rows, group), max_delay_ms=0),
                size=lambda _: 1,
                key=lambda _: None,
                threads=hook_threads,
                thread_init=thread_init,
                observer=hook_observer,
                name="hooks",
            )
        self._pace = Pace()
        self._after: Batcher[_Finish, bytes] | None = None
        if engine.postprocesses:
            group = policy.max_batch_size if engine.finishes_many else _HOOK_GROUP
            # Fed by the model's threads, which finish a batch themselves while more than one waits: see _finishes_here.
            bound = (engine.instances + 1) * policy.max_batch_size + policy.max_queue_rows
            self._after = Batcher(
                self._finish_group,
                BatchPolicy(group, bound, max_delay_ms=0),
                size=lambda _: 1,
                key=lambda _: None,
                threads=hook_threads,
                thread_init=thread_init,
                name="after",
            )

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the model."""
        return self._model.queued_rows + self._turn.rows

    @property
    def preprocesses(self) -> bool:
        """Whether code of the folder sees what requests carry before the model does."""
        return self._hooks is not None

    @property
    def instances(self) -> int:
        """How many model calls may run at a time."""
        return self._engine.instances

    def remember(self, seconds_by_rows: Mapping[int, float]) -> None:
        """What calls took before the first request, by the rows in them: deadlines and delays can go by it at once."""
        now = time.monotonic()
        for rows, seconds in seconds_by_rows.items():
            self._model.observe(seconds, rows, now)

    @property
    def in_flight(self) -> int:
        """Requests being served."""
        return self._present

    def predict(self, call: Call, request: Request) -> Awaitable[bytes]:
        """The response message of one request.

        Raises:
            DeadlineExceeded: the deadline passed in a queue, or comes sooner than the model can answer.
            ResourceExhausted: a queue is full, or so long that the answer would come after the deadline.
            ServingError: what the engine, a hook, the queue or the request's encode raised; see there.
        """
        if self._request_log is not None and self._request_log.chooses():
            return self._logged(call, request, self._request_log)
        return self._predict(call, request)

    async def _logged(self, call: Call, request: Request, lines: RequestLog) -> bytes:
        start = time.monotonic()
        payload, meta = request.payload, dict(request.meta)  # hooks may change what they get
        try:
            answer = await self._predict(call, request)
        except BaseException as error:
            lines.write(call, payload, meta, time.monotonic() - start, error)
            raise
        lines.write(call, payload, meta, time.monotonic() - start, answer)
        return answer

    async def _predict(self, call: Call, request: Request) -> bytes:
        self._present += 1
        try:
            if self._hooks is not None:
                job = await self._hooks.submit(
                    request, deadline=call.deadline, cancelled=call.cancelled, priority=request.priority
                )
            else:
                job = self._engine.prepare(request.payload, request.meta)
            return await self._answer(call, request, job)
        finally:
            self._present -= 1

    async def _answer(self, call: Call, request: Request, job: Job) -> bytes:
        deadline = call.deadline
        if not self._inline:
            return await self._by_threads(call, request, job)
        now = time.monotonic()
        if not self._quick.allows(size_of(job.data), now):
            self._long += 1
            try:
                return await self._by_threads(call, request, job)
            finally:
                self._long -= 1
        if self._long:
            # The loop would stand still until the long call is over.
            return await self._by_threads(call, request, job)
        start_by = None if deadline is None else self._model.start_by(deadline, now)
        task = (request, job)
        return await self._turn.submit(task, self._size(task), self._key(task), start_by, call.cancelled, now)

    async def _by_threads(self, call: Call, request: Request, job: Job) -> bytes:
        answer = await self._model.submit(
            (request, job), deadline=call.deadline, cancelled=call.cancelled, priority=request.priority
        )
        if isinstance(answer, bytes):
            return answer
        assert self._after is not None
        return await self._after.submit(
            (request, job, answer.output),
            deadline=call.deadline,
            cancelled=call.cancelled,
            priority=request.priority,
        )

    async def close(self, drain_deadline_s: float) -> bool:
        """Let what is queued run until the deadline, then fail the rest.

        Answers whether all threads have ended; False means that some code of the folder still ran at the deadline.
        """
        ended = self._hooks is None or await self._hooks.close(drain_deadline_s)
        ended &= await self._model.close(drain_deadline_s)
        ended &= self._after is None or await self._after.close(drain_deadline_s)
        if self._on_closed is not None:
            self._on_closed()
        return ended

    def release(self) -> None:
        """Let go of the model and all else, once closed; the servable is of no use any more.

        Its parts refer to each other, so that memory would be freed only by a full garbage collection, which stops
        the process for long, and not even then where objects were frozen when the server came up.
        """
        vars(self).clear()

    def _prepare_group(self, requests: Sequence[Request]) -> list[Job | Exception]:
        start = time.monotonic()
        jobs = self._engine.prepare_many([(request.payload, request.meta) for request in requests])
        self._stages.observe("preprocess", time.monotonic() - start)
        return [*jobs]

    def _finish_group(self, tasks: Sequence[_Finish]) -> list[bytes | Exception]:
        start = time.monotonic()
        answers = self._engine.finish([job for _, job, _ in tasks], [output for *_, output in tasks])
        took = time.monotonic() - start
        self._pace.observe(took, len(tasks))
        self._stages.observe("postprocess", took)
        return [self._encode(task[0], answer) for task, answer in zip(tasks, answers, strict=True)]

    def _run_here(self, tasks: Sequence[Task], waited_s: float) -> list[bytes | Exception]:
        """Answers made on the event loop's thread. Raises Busy."""
        start = time.monotonic()
        running = self._running[0]
        if not running.acquire(timeout=_PATIENCE_S):
            raise Busy
        try:
            if not self._loop_initialised:
                self._instance_init(0)
                self._loop_initialised = True
            answers = self._run_locked(tasks, 0)
        finally:
            running.release()
        end = time.monotonic()
        rows = sum([job.rows for _, job in tasks])
        self._model.observe(end - start, rows, end)
        if self._observer is not None:
            self._observer.ran(len(tasks), rows, waited_s, end - start)
        return answers

    async def _run_elsewhere(
        self, task: Task, start_by: float | None, cancelled: Callable[[], bool]
    ) -> bytes:
        """The answer made on a model's thread, for a task that was to be run on the event loop's."""
        answer = await self._model.submit(
            task, deadline=start_by, cancelled=cancelled, priority=task[0].priority
        )
        assert isinstance(answer, bytes)  # folders with hooks are not run inline
        return answer

    def _dropped(self, reason: str, items: int) -> None:
        if self._observer is not None:
            self._observer.dropped(reason, items)

    def _runner(self, instance: int) -> Callable[[Sequence[Task]], Sequence[bytes | _Unfinished | Exception]]:
        """What an instance's thread calls for each batch."""
        running = self._running[instance]
        initialised = False

        def run(tasks: Sequence[Task]) -> Sequence[bytes | _Unfinished | Exception]:
            nonlocal initialised
            if not initialised:
                self._instance_init(instance)
                initialised = True
            with running:
                return self._run_batch(tasks, instance)

        return run

    def _run_batch(self, tasks: Sequence[Task], instance: int) -> Sequence[bytes | _Unfinished | Exception]:
        if self._after is None:
            return self._run_locked(tasks, instance)
        jobs = [job for _, job in tasks]
        start = time.monotonic()
        outputs = self._engine.outputs(jobs, instance)
        self._stages.observe("model", time.monotonic() - start)
        # Slow hooks run elsewhere, beside the next call of the model. While more than a batch waits for them there,
        # this thread helps, so that the wait has a bound.
        if self._pace.slow and self._after.queued_items <= self._max_rows:
            return [out if isinstance(out, ServingError) else _Unfinished(out) for out in outputs]
        return self._finish_group(
            [(request, job, out) for (request, job), out in zip(tasks, outputs, strict=True)]
        )

    def _run_locked(self, tasks: Sequence[Task], instance: int) -> list[bytes | Exception]:
        start = time.monotonic()
        results = self._engine.run([job for _, job in tasks], instance)
        end = time.monotonic()
        self._stages.observe("model", end - start)
        with self._observing:
            self._quick.observe(end - start, sum([size_of(job.data) for _, job in tasks]), end)
        return [self._encode(request, result) for (request, _), result in zip(tasks, results, strict=True)]

    def _encode(self, request: Request, result: Any) -> bytes | Exception:
        if isinstance(result, ServingError):
            return result
        try:
            return request.encode(result, self._engine.class_names)
        except ServingError as error:
            return error

    def _size(self, task: Task) -> int:
        # A request of more rows than a batch holds runs alone; one of none still takes a place.
        return min(max(task[1].rows, 1), self._max_rows)

    def _key(self, task: Task) -> Hashable:
        return self._engine.key(task[1])


def _nothing(instance: int) -> None:
    pass
