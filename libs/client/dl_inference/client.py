"""The client for threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc
from numpy.typing import ArrayLike, NDArray

from dl_inference import calls
from dl_inference.connection import (
    channel_options,
    compression,
    credentials,
    failure,
    instance_of,
    metadata,
)
from dl_inference.errors import OURS_TO_MEND
from dl_inference.options import Options, Reply
from dl_inference.retry import Attempts, RetryBudget
from dl_inference.routes import NodeFile, OneAddress, Route, Routes, Xds
from libs.balancing.policy import PolicyName
from libs.proto.kserve import Parameter

T = TypeVar("T")


def routes_of(address: str, options: Options) -> Routes:
    """Everything to one address."""
    if not address or "://" in address:
        raise ValueError(f"expected an address such as 127.0.0.1:8500, got {address!r}")
    return OneAddress(address)


def direct_routes(nodes: str | PathLike[str], policy: str) -> Routes:
    """To the instances themselves: a node file, or "xds" for what a control plane tells gRPC."""
    if nodes == "xds":
        return Xds()
    return NodeFile(Path(nodes), PolicyName(policy), time.monotonic, random.Random())


class Client:
    """Calls models at `address`, a gateway or a single server. Thread-safe; keep one for the whole program.

    Args:
        address: host:port.
        options: what all calls have in common; its fields can be given by name as well:
            `Client("gateway:8500", timeout_s=0.5, tls=True, api_key=...)`.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8500",
        options: Options | None = None,
        *,
        routes: Routes | None = None,
        **fields: Any,
    ) -> None:
        self.options = replace(options or Options(), **fields)
        self._routes = routes or routes_of(address, self.options)
        self._budget = RetryBudget(self.options.retry.budget)
        self._rng = random.Random()
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._stubs: dict[tuple[str, str], grpc.UnaryUnaryMultiCallable] = {}
        self._closed = False

    @classmethod
    def direct(
        cls,
        nodes: str | PathLike[str],
        *,
        policy: str = "peak_ewma",
        options: Options | None = None,
        **fields: Any,
    ) -> Client:
        """A client that balances over the instances by itself, without a gateway between.

        Args:
            nodes: a node file as the gateway's, followed while it changes; or "xds", with GRPC_XDS_BOOTSTRAP set.
            policy: round_robin, weighted, least_request or peak_ewma; for a node file.
        """
        return cls("direct", options, routes=direct_routes(nodes, policy), **fields)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        signature: str = "",
        version: int | None = None,
        label: str = "",
        outputs: Sequence[str] = (),
        task: int | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """A TensorFlow model: named arrays to named arrays.

        Lists of Python floats are sent as float32, arrays as they are; strings as arrays or lists of str or bytes.
        Answers are read-only views of what was received. Raises InferenceError.
        """
        call = calls.tensorflow(
            model, inputs, signature=signature, version=version, label=label, outputs=outputs, task=task
        )
        return self.call(call, timeout_s=timeout_s).value

    def pytorch_predict(
        self,
        task: int,
        payload: Any,
        *,
        names: Sequence[str] = (),
        tags: Mapping[str, Any] | None = None,
        encoding: calls.Encoding = "tensor",
        timeout_s: float | None = None,
    ) -> Any:
        """A PyTorch (Seldon-protocol) model: an array, bytes, str or dict to one of these. Raises InferenceError."""
        call = calls.pytorch(task, payload, names=names, tags=tags, encoding=encoding)
        return self.call(call, timeout_s=timeout_s).value.payload

    def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        task: int | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """A model behind KServe's V2 protocol: named arrays to named arrays. Raises InferenceError."""
        call = calls.kserve_v2(
            model,
            inputs,
            version=version,
            outputs=outputs,
            request_id=request_id,
            parameters=parameters,
            task=task,
        )
        return self.call(call, timeout_s=timeout_s).value

    def health(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """Whether the server, or a service of it, serves (grpc.health.v1). Raises InferenceError."""
        return self.call(calls.health(service), timeout_s=timeout_s).value

    def call(self, call: calls.Call[T], *, timeout_s: float | None = None) -> Reply[T]:
        """Send a call made by `dl_inference.calls`; the answer with where it came from. Raises InferenceError."""
        options = self.options
        if timeout_s is None:
            timeout_s = options.timeout_s
        attempts = Attempts(options.retry, self._budget, timeout_s, time.monotonic, self._rng)
        with_it = metadata(options, call)
        tried: set[str] = set()
        while True:
            route = self._routes.pick(call.task, call.model, tried)
            left_s = attempts.begin()
            if route.timeout_s is not None:
                left_s = min(left_s, route.timeout_s)
            began = attempts.seconds
            stub = self._stub(route, call)
            try:
                body, rpc = stub.with_call(
                    call.body, timeout=left_s, metadata=with_it, compression=compression(options)
                )
            except grpc.RpcError as error:
                code = error.code().name
                route.done(code in OURS_TO_MEND, attempts.seconds - began)
                tried.add(route.target)
                wait_s = attempts.wait_s(code)
                if wait_s is None:
                    said = error.initial_metadata(), error.trailing_metadata()
                    here = instance_of(*said, default=route.target if route.direct else "")
                    raise failure(error, instance=here, attempts=attempts.count) from None
                time.sleep(wait_s)
            else:
                route.done(True, attempts.seconds - began)
                said = rpc.initial_metadata(), rpc.trailing_metadata()
                here = instance_of(*said, default=route.target if route.direct else "")
                return Reply(call.decode(body), here, attempts.count, attempts.seconds)

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        with self._lock:
            self._closed = True
            channels, self._channels = list(self._channels.values()), {}
            self._stubs.clear()
        for channel in channels:
            channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stub(self, route: Route, call: calls.Call[Any]) -> grpc.UnaryUnaryMultiCallable:
        key = route.target, call.path
        stub = self._stubs.get(key)
        return self._connect(*key) if stub is None else stub

    def _connect(self, target: str, path: str) -> grpc.UnaryUnaryMultiCallable:
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
            if target not in self._channels:
                secured, arguments = credentials(self.options), channel_options(self.options)
                self._channels[target] = (
                    grpc.insecure_channel(target, arguments)
                    if secured is None
                    else grpc.secure_channel(target, secured, arguments)
                )
            stub = self._channels[target].unary_unary(path)
            self._stubs[target, path] = stub
            return stub
