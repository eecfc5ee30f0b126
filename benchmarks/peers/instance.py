"""A small model server that can be told to misbehave.   instance.py HOST PORT [--no-health]

Echoes every unary call after a delay, as a model of that cost would. Lines on standard input change it:

    delay SECONDS     how long a call takes
    status NAME       answer every call with this gRPC status at once; OK echoes again

SIGTERM drains: new calls are refused, those in flight finish.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

DRAIN_S = 5.0


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every method there is."""

    def __init__(self) -> None:
        self.delay_s = 0.005
        self.status = grpc.StatusCode.OK

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        if self.status is not grpc.StatusCode.OK:
            context.abort(self.status, "as told")
        time.sleep(self.delay_s)
        return body

    def obey(self, line: str) -> None:
        word, _, value = line.strip().partition(" ")
        if word == "delay":
            self.delay_s = float(value)
        elif word == "status":
            self.status = grpc.StatusCode[value]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--no-health", action="store_true", help="without grpc.health.v1")
    options = parser.parse_args()
    echo = Echo()
    # Enough threads that a slowed instance is slow and not also full.
    server = grpc.server(
        futures.ThreadPoolExecutor(128),
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)],
    )
    if not options.no_health:
        servicer = health.HealthServicer()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((echo,))
    port = server.add_insecure_port(f"{options.host}:{options.port}")
    server.start()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    print(f"READY {options.host}:{port}", flush=True)

    def read() -> None:
        for line in sys.stdin:
            echo.obey(line)
        ended.set()  # whoever started it is gone

    threading.Thread(target=read, daemon=True).start()
    while not ended.wait(1.0):  # a wait without an end would never see the signal
        pass
    server.stop(DRAIN_S).wait()


if __name__ == "__main__":
    main()
