"""A real gRPC server in the test's process that answers what it is asked, and fails as it is told."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from libs.proto import kserve, predict, seldon
from libs.proto.seldon import DataKind


@dataclass
class Backend:
    """What the server does, and what it has seen.

    Attributes:
        failures: statuses of the next calls, in order; then they succeed.
        delay_s: before each answer.
        seen: (path, metadata) of each call.
    """

    address: str = ""
    failures: list[grpc.StatusCode] = field(default_factory=list)
    delay_s: float = 0.0
    serving: bool = True
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        """Predict and infer: every input by its name; Seldon: the payload, as it came; health: `serving`."""
        with self.lock:
            self.seen.append((path, {str(k): str(v) for k, v in context.invocation_metadata()}))
            failure = self.failures.pop(0) if self.failures else None
        context.send_initial_metadata((("x-dl-instance", self.address),))
        if failure is not None:
            context.abort(failure, f"told to fail with {failure.name}")
        if self.delay_s:
            time.sleep(self.delay_s)
        method = path.rpartition("/")[2]
        if method == "Check":
            return b"\x08\x01" if self.serving else b"\x08\x02"
        if method == "Predict" and "seldon" not in path:
            asked = predict.decode_predict_request(body)
            wanted = asked.output_filter or list(asked.inputs)
            types = {name: asked.data_types[name] for name in wanted}
            return predict.encode_predict_response(
                asked.model_spec, {name: asked.inputs[name] for name in wanted}, data_types=types
            )
        if method in ("TisPredict", "ModelInfer"):
            infer = kserve.decode_request(body)
            return kserve.encode_response(infer.model_name, infer.inputs)
        message = seldon.decode_message(body)
        meta = seldon.encode_meta(puid="p1", tags={"seen": message.tags.get("taskId")})
        kind = message.kind if message.kind is not None else DataKind.STR
        return seldon.encode_message(kind, message.payload, names=message.names, meta=meta)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        def handle(body: bytes, context: grpc.ServicerContext) -> bytes:
            return self._backend.answer(details.method, body, context)

        return grpc.unary_unary_rpc_method_handler(handle)


@contextlib.contextmanager
def backend(
    credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0"
) -> Iterator[Backend]:
    """Runs it until the block ends."""
    told = Backend()
    server = grpc.server(
        ThreadPoolExecutor(16), handlers=(_Handler(told),), options=(("grpc.so_reuseport", 0),)
    )
    port = (
        server.add_insecure_port(address)
        if credentials is None
        else server.add_secure_port(address, credentials)
    )
    told.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield told
    finally:
        server.stop(0).wait(10)
