"""Runs the signatures of one SavedModel version on the TensorFlow runtime; knows no transport and no
batching.

The graph runs in a Session, as it does inside TensorFlow Serving, and each (signature, outputs) pair is
compiled once into a callable that takes numpy arrays and gives numpy arrays. For half_plus_two on one
2-core machine, a call costs, in microseconds: 203 by
`tf.saved_model.load(...).signatures[...](x=tf.constant(x))`, 85 by that signature on a ready tensor, 56 by
its concrete function on flat tensors, 33 by the function's name through the eager C API, 86 by Session.run,
18 by a Session callable, 4 by a Session callable that runs in the calling thread.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto.dtypes import DataType, element_type
from libs.proto.tensor import decode_tensor
from libs.proto.wire import ProtoError
from libs.serving.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServingError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from services.tf_serving.execution.batch_rules import BatchRules
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import saved_model
from services.tf_serving.model.signature import Signature, TensorSpec
from services.tf_serving.model.versions import ModelError

log = logging.getLogger(__name__)

Arrays = Sequence[NDArray[Any]]
Runner = Callable[[Arrays], list[NDArray[Any]]]
"""From a signature's inputs, in the signature's order, to the chosen outputs, in the order chosen."""

Parts = tuple[tuple[str, tuple[str, ...]], ...]
"""Signatures by name, each with the outputs chosen of it."""

_MAX_RUNNERS = 128
"""Compiled callables kept. Each costs some kilobytes; a signature of n outputs has 2^n filters to ask for."""

_MAX_WARM_UP_BYTES = 64 * 1024 * 1024
_MAX_ERROR_CHARACTERS = 1000
"""A status message travels in an HTTP header, which transports bound at some kilobytes."""

_ERRORS: dict[int, type[ServingError]] = {
    3: InvalidArgument,
    4: DeadlineExceeded,
    5: NotFound,
    7: PermissionDenied,
    8: ResourceExhausted,
    9: FailedPrecondition,
    11: InvalidArgument,  # out of range: gathers and slices say so of bad indices in a request
    12: Unimplemented,
    14: Unavailable,
    16: Unauthenticated,
}
"""TensorFlow's status codes, which are the canonical ones; those not listed are Internal."""

_QUANTIZED = {
    DataType.DT_QINT8: "qint8",
    DataType.DT_QUINT8: "quint8",
    DataType.DT_QINT16: "qint16",
    DataType.DT_QUINT16: "quint16",
    DataType.DT_QINT32: "qint32",
}


@dataclass(frozen=True, slots=True)
class Threads:
    """Thread pools of the runtime.

    Attributes:
        intra_op: threads that share the work of one kernel.
        inter_op: threads that run independent kernels of one call; 0 runs a call's kernels one after
            another in
            the thread that makes it, which saves a hand-over per call and is fastest for all but wide graphs.
    """

    intra_op: int
    inter_op: int = 0


class Engine:
    """One loaded version. Thread-safe: any number of threads may call runners at a time.

    Attributes:
        rules: what its batches must look like; None: the server's rules.
        batched: whether its rows share runs, where the server batches at all. Both are set before the version serves.
    """

    def __init__(self, session: Any, graph: saved_model.MetaGraph, *, in_caller: bool) -> None:
        self._session = session
        self._in_caller = in_caller
        self.rules: BatchRules | None = None
        self.batched = True
        self.signatures = graph.signatures
        self.signature_def_map = graph.signature_def_map
        self.runner = functools.lru_cache(_MAX_RUNNERS)(self._runner)
        self.joint_runner = functools.lru_cache(_MAX_RUNNERS)(self._joint_runner)

    @staticmethod
    def load(path: Path, threads: Threads) -> Engine:
        """Load the SavedModel in folder `path`: graph, variables, tables; runs its initialisers.

        Raises:
            ModelError: it cannot be loaded (corrupt, no graph for serving, unknown op ...). Says which and
                why.
        """
        graph = saved_model.read(path)
        tf = tensorflow()
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads.intra_op,
            inter_op_parallelism_threads=max(threads.inter_op, 1),
            allow_soft_placement=True,
        )
        config.gpu_options.allow_growth = True
        session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            with session.graph.as_default():
                definition = tf.compat.v1.saved_model.load(session, [saved_model.SERVE_TAG], str(path))
            if graph is None:
                graph = saved_model.parse_meta_graph(definition.SerializeToString())
        except Exception as error:  # the loader raises whatever its many parts raise
            session.close()
            raise ModelError(f"cannot load {path}: {_brief(error)}") from error
        return Engine(session, graph, in_caller=threads.inter_op == 0)

    def default_input(self, signature: Signature, name: str) -> NDArray[Any]:
        """The value of an input that the signature lets requests leave out."""
        return decode_tensor((signature.defaults or {})[name])

    def warm_up(self, rows: Sequence[int] = (1,)) -> int:
        """Run every signature on zeros, unknown sizes taken as 1, so that the first request does not
        pay for graph optimisation and allocation; once for each number of rows where those may share a run.
        Returns how many signatures ran; one that refuses zeros stays cold."""
        warm = 0
        for signature in self.signatures.values():
            try:
                if signature.inputs and signature.outputs:
                    for count in rows if signature.batchable else (1,):
                        arrays = [_zeros(spec, count) for spec in signature.inputs.values()]
                        self.runner(signature.name, tuple(signature.outputs))(arrays)
                    warm += 1
            except (ServingError, ProtoError, ModelError) as error:
                log.debug("signature %s was not warmed up: %s", signature.name, error)
        return warm

    def close(self) -> None:
        """Free the session and the graph; what the model promises may still be read. No runner may be made or
        called any more."""
        from tensorflow.python.framework import ops

        self._session.close()
        # An engine and its runners refer to each other, as do a graph and its operations: unless that ends
        # here, their memory waits for a full garbage collection.
        ops.dismantle_graph(self._session.graph)
        del self.runner, self.joint_runner, self._session

    def _runner(self, signature_name: str, outputs: tuple[str, ...]) -> Runner:
        """The callable of one signature for a choice of outputs; only what these need is computed."""
        signature = self.signatures[signature_name]
        return self._lazily(list(signature.inputs.values()), [signature.outputs[name] for name in outputs])

    def _joint_runner(self, parts: Parts) -> Runner:
        """The callable of several signatures that each have one input and are all given the same value, in
        one run: from that value to the outputs of each part, one part's after the other's."""
        inputs, outputs = dict[str, TensorSpec](), list[TensorSpec]()
        for name, chosen in parts:
            (spec,) = self.signatures[name].inputs.values()
            inputs[spec.tensor] = spec
            outputs += [self.signatures[name].outputs[output] for output in chosen]
        run = self._lazily(list(inputs.values()), outputs)
        if len(inputs) == 1:
            return run
        return lambda arrays: run([arrays[0]] * len(inputs))

    def _lazily(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Runner:
        """Compiles on its first call, hence on a model thread: optimising a large graph takes seconds."""
        lock = threading.Lock()
        compiled: Runner | None = None

        def run(arrays: Arrays) -> list[NDArray[Any]]:
            nonlocal compiled
            if compiled is None:
                with lock:
                    compiled = compiled or self._compile(inputs, outputs)
            return compiled(arrays)

        return run

    def _compile(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Runner:
        tf = tensorflow()
        options = tf.compat.v1.RunOptions()
        if self._in_caller:
            options.inter_op_thread_pool = -1  # RunOptions: "run in the caller's thread"
        fetches = [spec.tensor for spec in outputs]
        feeds = [spec.tensor for spec in inputs]
        # Two outputs may be one tensor; and an output may be an input, which the runtime refuses to fetch.
        computed = [tensor for tensor in dict.fromkeys(fetches) if tensor not in feeds]
        callable_options = _callable_options(feeds, computed, options)
        try:
            # The callable behind Keras's own v1 predict; Session.run's Python costs 20 times its C++.
            call = self._session._make_callable_from_options(callable_options)
        except (tf.errors.OpError, ValueError) as error:
            raise _translate(error) from error
        values = [*feeds, *computed] if any(tensor in feeds for tensor in fetches) else computed
        places = [values.index(tensor) for tensor in fetches]
        with_inputs = values is not computed
        into = [_feed(tf, spec) for spec in inputs]
        plain_in = not any(into)
        out_of = [element_type(spec.data_type).wire for spec in outputs]

        def run(arrays: Arrays) -> list[NDArray[Any]]:
            if not plain_in:
                arrays = [a if d is None else a.view(d) for a, d in zip(arrays, into, strict=True)]
            try:
                results = call(*arrays)
            except Exception as error:  # OpError, or what converting an array raises
                raise _translate(error) from error
            if with_inputs:
                results = [*arrays, *results]
            return [_array(results[place], dtype) for place, dtype in zip(places, out_of, strict=True)]

        return run


def _callable_options(feeds: list[str], fetches: list[str], run_options: Any) -> Any:
    from tensorflow.core.protobuf import config_pb2

    return config_pb2.CallableOptions(feed=feeds, fetch=fetches, run_options=run_options)


def _feed(tf: Any, spec: TensorSpec) -> Any:
    """The numpy dtype that marks a quantised array as such to TensorFlow; None for all others."""
    name = _QUANTIZED.get(DataType(spec.data_type))
    return None if name is None else np.dtype(getattr(tf, name).as_numpy_dtype)


def _array(result: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A fetched value as an array of the codecs' dtype. TensorFlow gives scalars as Python or numpy
    scalars, and quantised arrays with a dtype of its own."""
    if type(result) is not np.ndarray:
        return np.array(result, dtype)
    return result if result.dtype == dtype else result.view(dtype)


def _zeros(spec: TensorSpec, rows: int) -> NDArray[Any]:
    if spec.shape is None:
        raise ModelError(f"the rank of {spec.tensor} is unknown")
    shape = tuple((1 if place else rows) if size < 0 else size for place, size in enumerate(spec.shape))
    dtype = element_type(spec.data_type).array
    if prod(shape) * dtype.itemsize > _MAX_WARM_UP_BYTES:
        raise ModelError(f"{spec.tensor} is too large")
    return np.full(shape, b"", object) if spec.data_type == DataType.DT_STRING else np.zeros(shape, dtype)


def _translate(error: Exception) -> ServingError:
    """TensorFlow's exception as ours; what has no status code is the model's (or our) defect."""
    if isinstance(error, ServingError):
        return error
    return _ERRORS.get(getattr(error, "error_code", 13), Internal)(_brief(error))


def _brief(error: Exception) -> str:
    text = " ".join(str(getattr(error, "message", "") or error or type(error).__name__).split())
    return text if len(text) <= _MAX_ERROR_CHARACTERS else text[: _MAX_ERROR_CHARACTERS - 4] + " ..."
