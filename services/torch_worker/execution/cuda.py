"""What is particular to CUDA: a stream per instance, pinned staging, and calls recorded as graphs. Nothing here is
used on the CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.structure import mapped
from services.torch_worker.execution.tensors import cut_rows

log = logging.getLogger(__name__)

# Of a call that is recorded: so many runs before, in which libraries choose and allocate what a graph must not.
_RUNS_BEFORE_RECORDING = 3


def set_policy(fixed_shapes: bool, tf32: bool = False) -> None:
    """Process-wide choices of precision and of convolution kernels.

    TF32 keeps 10 of float32's 23 bits of mantissa; PyTorch's default takes it for convolutions, and then answers differ
    from the CPU's in the third digit. Here it is off unless asked for.

    Args:
        fixed_shapes: calls have few shapes (CUDA graphs). cuDNN then tries its kernels on each new one, which takes up
            to seconds a shape: worth it for few, ruinous where every batch has another size.
        tf32: allow it.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = fixed_shapes


def memory_text(device: torch.device) -> str:
    """How much of a device's memory is taken, in words."""
    free, total = torch.cuda.mem_get_info(device)
    return (
        f"{device}: {torch.cuda.memory_allocated(device) / 2**20:.0f} MiB in tensors, "
        f"{torch.cuda.memory_reserved(device) / 2**20:.0f} MiB reserved, "
        f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB free"
    )


class CudaLane:
    """Stream and staging of one instance. Used by one thread at a time.

    Instances of one device overlap: while one computes, the other copies. That needs a stream for each, and pinned
    memory, which the device reads and writes by itself.

    Pinned buffers come from PyTorch's own cache of them, which gives one out again only when the copies that use it
    have ended.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def enter_thread(self) -> None:
        """Make the stream this thread's for good: everything that the instance's hooks and model do is in order."""
        torch.cuda.set_device(self.device)
        torch.cuda.set_stream(self._stream)

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """The same for a while."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield

    def follow_hooks(self) -> None:
        """Let this stream wait for what preprocess began on the device: its threads use the default stream."""
        self._stream.wait_stream(torch.cuda.default_stream(self.device))

    def stage(
        self, inputs: Sequence[np.ndarray[Any, Any]], dtype: np.dtype[Any] | None = None
    ) -> torch.Tensor:
        """As `tensors.join`, on the device: one copy into pinned memory, converting, and one to the device, which the
        CPU does not wait for.
        """
        first = inputs[0]
        try:
            kind = torch.from_numpy(np.empty(0, dtype if dtype is not None else first.dtype)).dtype
        except TypeError:
            raise TypeError(f"torch has no tensors of {first.dtype}") from None
        shape = (sum(len(x) for x in inputs), *first.shape[1:]) if first.ndim else ()
        pinned = torch.empty(shape, dtype=kind, pin_memory=True)
        if first.ndim:
            np.concatenate(inputs, out=pinned.numpy(), casting="same_kind")
        else:
            pinned.numpy()[...] = first
        staged: torch.Tensor = pinned.to(self.device, non_blocking=True)
        return staged

    def fetch(self, output: Any) -> Any:
        """The same structure with CPU tensors in the place of the device's: all copies are begun, then awaited once."""
        copies = mapped(output, _fetched)
        self._await()
        return copies

    def hand_over(self, output: Any) -> Any:
        """The output as it is, for hooks of whatever thread: computed, and kept until their stream, the default one,
        has read it.
        """
        default = torch.cuda.default_stream(self.device)

        def keep(tensor: Any) -> Any:
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "cpu":
                tensor.record_stream(default)
            return tensor

        mapped(output, keep)
        self._await()
        return output

    def _await(self) -> None:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        event.synchronize()


def _fetched(tensor: Any) -> Any:
    if not isinstance(tensor, torch.Tensor) or tensor.device.type == "cpu":
        return tensor
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor.detach(), non_blocking=True)


class CudaCaller(ModelCaller):
    """A `ModelCaller` on a lane.

    Args:
        lane: whose device the model is on.
        follows_hooks: preprocess may have put inputs on the device.
        fetches: outputs are wanted on the CPU. Not where hooks go on with them on the device.
        model, run_model, forward: see `ModelCaller`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        lane: CudaLane,
        run_model: Callable[..., Any] | None,
        *,
        forward: Callable[..., Any] | None = None,
        follows_hooks: bool,
        fetches: bool,
    ) -> None:
        super().__init__(model, lane.device, run_model, forward=forward, stage=lane.stage)
        self._lane = lane
        self._follows_hooks = follows_hooks
        self._fetches = fetches

    def enter_thread(self) -> None:
        """As `ModelCaller.enter_thread`."""
        self._lane.enter_thread()

    def placed(self) -> AbstractContextManager[None]:
        """As `ModelCaller.placed`."""
        return self._lane.on_stream()

    def call(
        self, inputs: Sequence[Any], model_kwargs: Mapping[str, Any], hook_kwargs: Mapping[str, Any]
    ) -> Any:
        """As `ModelCaller.call`."""
        if self._follows_hooks:
            self._lane.follow_hooks()
        output = super().call(inputs, model_kwargs, hook_kwargs)
        return self._lane.fetch(output) if self._fetches else self._lane.hand_over(output)


class Recording(Protocol):
    """A recorded call: `run` repeats it on what the inputs' memory holds now, and `output` is where its result lies."""

    output: Any

    def run(self) -> None: ...


def record_graph(call: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Recording:
    """Record call(x) as a CUDA graph on the current stream.

    Raises:
        RuntimeError: the call does what a graph cannot hold, such as waiting for the device.
    """
    for _ in range(_RUNS_BEFORE_RECORDING):
        call(x)
    torch.cuda.current_stream(x.device).synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(x.device)):
        output = call(x)
    return _Graph(graph, output)


class _Graph:
    def __init__(self, graph: torch.cuda.CUDAGraph, output: Any) -> None:
        self._graph = graph
        self.output = output

    def run(self) -> None:
        self._graph.replay()


class Recordings:
    """Calls of a model with fixed numbers of rows, recorded once and repeated: launching hundreds of kernels takes the
    CPU longer than a small batch takes the device.

    A call with fewer rows than a recorded one is filled up to it. Everything else (keyword arguments, several inputs,
    other shapes, more rows) runs as it is. Used by one thread at a time.

    Args:
        call: the model.
        sizes: numbers of rows to record.
        record: records a call.

    Attributes:
        recording: whether a call whose number of rows is one of `sizes` is recorded the first time; during warm-up.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        sizes: Sequence[int],
        record: Callable[[Callable[[torch.Tensor], Any], torch.Tensor], Recording] = record_graph,
    ) -> None:
        self._call = call
        self._sizes = frozenset(sizes)
        self._record = record
        # By dtype and trailing shape: the input's memory and the recording, ascending by rows.
        self._recorded: dict[tuple[torch.dtype, torch.Size], list[tuple[torch.Tensor, Recording]]] = {}
        self.recording = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or not isinstance(args[0], torch.Tensor) or args[0].ndim == 0:
            return self._call(*args, **kwargs)
        x = args[0]
        kind = (x.dtype, x.shape[1:])
        known = self._recorded.get(kind, [])
        rows = len(x)
        found = next((pair for pair in known if len(pair[0]) >= rows), None)
        if self.recording and rows in self._sizes and (found is None or len(found[0]) != rows):
            found = self._try_record(kind, x)
        if found is None or rows == 0:
            return self._call(x)
        memory, recorded = found
        memory[:rows].copy_(x, non_blocking=True)
        recorded.run()
        # A copy: the next run writes over the output, which a hook may have kept.
        return mapped(cut_rows(recorded.output, len(memory), rows), _cloned)

    def _try_record(
        self, kind: tuple[torch.dtype, torch.Size], x: torch.Tensor
    ) -> tuple[torch.Tensor, Recording] | None:
        memory = x.clone()
        try:
            recorded = self._record(self._call, memory)
            cut_rows(
                recorded.output, len(memory), min(1, len(memory))
            )  # raises where rows cannot be told apart
        except Exception as error:  # whatever the model, CUDA, or the output's structure objects to
            self.recording = False
            log.warning(
                "the model's calls are not recorded as CUDA graphs, %s: %s", type(error).__name__, error
            )
            return None
        log.info("recorded a call of %d rows of %s %s as a CUDA graph", len(x), x.dtype, tuple(x.shape[1:]))
        pairs = [*self._recorded.get(kind, []), (memory, recorded)]
        self._recorded[kind] = sorted(pairs, key=lambda pair: len(pair[0]))
        return memory, recorded


def _cloned(tensor: Any) -> Any:
    return tensor.clone() if isinstance(tensor, torch.Tensor) else tensor
