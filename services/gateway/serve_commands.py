"""The commands that take traffic: their flags and help."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import Any

from services.gateway.names import DEFAULT_MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES

# What a command needs is imported by it: the process that supervises the others stays small.

_SERVE = """\
examples:
  gateway serve --nodes nodefile.txt --listen 0.0.0.0:8080 --admin 127.0.0.1:9901
  gateway serve --config gateway.toml
  gateway serve --nodes nodefile.txt --xds 127.0.0.1:18000
                                       also feeds other Envoys (gateway data-plane) and gRPC clients (xds:///task-69)

SIGHUP reads the configuration again; SIGTERM: health turns NOT_SERVING, callers are told to go, calls in flight finish.
xDS is plaintext and asks nobody who they are: whoever reaches it sees addresses and, where there are any, API keys and
private keys.
"""
_DATA_PLANE = """\
examples:
  gateway data-plane --xds 10.0.0.5:18000 --listen 0.0.0.0:8080

takes the configuration, also of the listener, from a `gateway serve --xds` elsewhere, and reports its load there. While
that one is away this one serves on with what it has.
"""


def add_serve_parsers(commands: Any, sources: argparse.ArgumentParser) -> None:
    """Adds `serve` and `data-plane`; each sets `run`, which takes the arguments and gives the exit status.
    `sources` has --nodes and --config."""

    def add(name: str, told: str, epilog: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name,
            parents=parents,
            help=told,
            description=told,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return parser

    envoy = _envoy_flags()
    serve = add("serve", "take traffic", _SERVE, sources, envoy)
    serve.set_defaults(run=_serve)
    serve.add_argument(
        "--admin",
        type=_address,
        default=("127.0.0.1", 9901),
        metavar="HOST:PORT",
        help="status page and metrics; keep it on loopback (default 127.0.0.1:9901)",
    )
    serve.add_argument(
        "--xds",
        type=_address,
        metavar="HOST:PORT",
        help="also serve the configuration to other Envoys and gRPC clients here; plaintext (default: nowhere)",
    )
    serve.add_argument(
        "--max-message-bytes",
        type=message_bytes,
        default=DEFAULT_MAX_MESSAGE_BYTES,
        metavar="BYTES",
        help="the largest request message (default 10 MiB, at most 1000 MB)",
    )
    data_plane = add("data-plane", "take traffic as a gateway elsewhere says", _DATA_PLANE, envoy)
    data_plane.set_defaults(run=_data_plane)
    data_plane.add_argument(
        "--xds", type=_remote, required=True, metavar="HOST:PORT", help="where `gateway serve --xds` is"
    )
    data_plane.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])


def _envoy_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument(
        "--listen",
        type=_address,
        default=("0.0.0.0", 8080),
        metavar="HOST:PORT",
        help="where callers connect; port 0 takes a free one (default 0.0.0.0:8080)",
    )
    flags.add_argument(
        "--concurrency",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="Envoy's worker threads (default: one a core)",
    )
    flags.add_argument(
        "--drain-grace",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="after SIGTERM: how long to serve on while health says NOT_SERVING (default 1)",
    )
    flags.add_argument(
        "--drain-deadline",
        type=_seconds,
        default=15.0,
        metavar="SECONDS",
        help="after that: how long calls in flight may take to finish (default 15)",
    )
    flags.add_argument(
        "--envoy-log-level", default="warning", choices=["trace", "debug", "info", "warning", "error", "off"]
    )
    return flags


def _serve(args: argparse.Namespace) -> int:
    from services.gateway.supervisor_place import Place

    def control(place: Place) -> int:
        """In a process of its own."""
        from services.gateway import control
        from services.gateway.configuration import Sources
        from services.gateway.gateway import GatewayOptions

        options = GatewayOptions(
            sources=Sources(nodes=args.nodes, config=args.config),
            listen_host=args.listen[0],
            concurrency=args.concurrency,
            max_message_bytes=args.max_message_bytes,
            xds_host=args.xds[0] if args.xds else "",
        )
        return control.main(options, place)

    return _supervise(args, args.admin, control)


def _data_plane(args: argparse.Namespace) -> int:
    return _supervise(args, ("", 0), None)


def _supervise(args: argparse.Namespace, admin: tuple[str, int], control: Any) -> int:
    from services.gateway.supervisor import Supervisor, SupervisorOptions
    from services.gateway.supervisor_envoy import EnvoyOptions
    from services.gateway.supervisor_place import StartError
    from services.gateway.supervisor_process import allow_many_files

    options = SupervisorOptions(
        listen_host=args.listen[0],
        listen_port=args.listen[1],
        admin_host=admin[0],
        admin_port=admin[1],
        xds=args.xds,
        drain_grace_s=args.drain_grace,
        drain_deadline_s=args.drain_deadline,
        envoy=EnvoyOptions(args.concurrency, args.envoy_log_level),
    )
    allow_many_files()
    try:
        return Supervisor(options, control).run()
    except StartError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2


def _remote(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HOST:PORT, like 127.0.0.1:8080")
    return host.strip("[]") or "0.0.0.0", int(port)


def _address(text: str) -> tuple[str, int]:
    host, port = _remote(text)
    try:
        # Envoy takes only numbers: `localhost` is looked up here, as IPv4 where it has both.
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0]), port
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {host} has no address: {error.strerror}") from None


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def message_bytes(text: str) -> int:
    value = _positive(text)
    if value > MAX_MESSAGE_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r}: expected at most {MAX_MESSAGE_BYTES}")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds from 0 to 3600")
    return value
