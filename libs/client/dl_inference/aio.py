"""The client for asyncio."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio
from numpy.typing import ArrayLike, NDArray

from dl_inference import calls
from dl_inference.client import direct_routes, routes_of
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
from dl_inference.routes import Route, Routes
from libs.proto.kserve import Parameter

T = TypeVar("T")


class AsyncClient:
    """`Client` with methods to await. Belongs to the event loop that first calls with it; arguments as Client's."""

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
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stubs: dict[tuple[str, str], grpc.aio.UnaryUnaryMultiCallable] = {}
        self._closed = False

    @classmethod
    def direct(
        cls,
        nodes: str | PathLike[str],
        *,
        policy: str = "peak_ewma",
        options: Options | None = None,
        **fields: Any,
    ) -> AsyncClient:
        """As Client.direct."""
        return cls("direct", options, routes=direct_routes(nodes, policy), **fields)

    async def predict(
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
        """As Client.predict."""
        call = calls.tensorflow(
            model, inputs, signature=signature, version=version, label=label, outputs=outputs, task=task
        )
        return (await self.call(call, timeout_s=timeout_s)).value

    async def pytorch_predict(
        self,
        task: int,
        payload: Any,
        *,
        names: Sequence[str] = (),
        tags: Mapping[str, Any] | None = None,
        encoding: calls.Encoding = "tensor",
        timeout_s: float | None = None,
    ) -> Any:
        """As Client.pytorch_predict."""
        call = calls.pytorch(task, payload, names=names, tags=tags, encoding=encoding)
        return (await self.call(call, timeout_s=timeout_s)).value.payload

    async def infer(
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
        """As Client.infer."""
        call = calls.kserve_v2(
            model,
            inputs,
            version=version,
            outputs=outputs,
            request_id=request_id,
            parameters=parameters,
            task=task,
        )
        return (await self.call(call, timeout_s=timeout_s)).value

    async def health(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """As Client.health."""
        return (await self.call(calls.health(service), timeout_s=timeout_s)).value

    async def call(self, call: calls.Call[T], *, timeout_s: float | None = None) -> Reply[T]:
        """As Client.call. A task that is cancelled cancels the call."""
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
            began, ok = (
                attempts.seconds,
                True,
            )  # a call that its caller cancels says nothing against the instance
            stub = self._stub(route, call)
            rpc = stub(call.body, timeout=left_s, metadata=with_it, compression=compression(options))
            try:
                body = await rpc
                said = await rpc.initial_metadata(), await rpc.trailing_metadata()
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                ok = code in OURS_TO_MEND
                tried.add(route.target)
                wait_s = attempts.wait_s(code)
                if wait_s is None:
                    said = error.initial_metadata(), error.trailing_metadata()
                    here = instance_of(*said, default=route.target if route.direct else "")
                    raise failure(error, instance=here, attempts=attempts.count) from None
            else:
                here = instance_of(*said, default=route.target if route.direct else "")
                return Reply(call.decode(body), here, attempts.count, attempts.seconds)
            finally:
                route.done(ok, attempts.seconds - began)
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        self._stubs.clear()
        await asyncio.gather(*(channel.close() for channel in channels))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _stub(self, route: Route, call: calls.Call[Any]) -> grpc.aio.UnaryUnaryMultiCallable:
        target, path = route.target, call.path
        stub = self._stubs.get((target, path))
        if stub is not None:
            return stub
        if self._closed:
            raise ValueError("the client is closed")
        if target not in self._channels:
            secured, arguments = credentials(self.options), channel_options(self.options)
            self._channels[target] = (
                grpc.aio.insecure_channel(target, arguments)
                if secured is None
                else grpc.aio.secure_channel(target, secured, arguments)
            )
        stub = self._stubs[target, path] = self._channels[target].unary_unary(path)
        return stub
