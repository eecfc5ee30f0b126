"""The `gateway` command."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from services.gateway.configuration_commands import add_parsers
from services.gateway.listener_limits import DEFAULT_MAX_MESSAGE_BYTES
from services.gateway.status_command import add_parser as add_status_parser

# What a command needs is imported by it: the process that supervises the others stays small.

_EPILOG = """\
examples:
  gateway serve --nodes nodefile.txt --listen 0.0.0.0:8080 --admin 127.0.0.1:9901
  gateway serve --config gateway.toml
  gateway check --config gateway.toml
  gateway explain --nodes nodefile.txt --model textcnn-69
  gateway status --watch

a node file has one task a line: the task id, the longest that a call may take in milliseconds, its instances:
  69=100,10.0.0.7:8500,10.0.0.8:8500     # textcnn, two instances
  39=1000,digits.models.svc:8866         # a name may stand for many instances; it is resolved every 5 s
a gateway.toml says what a node file cannot: policies, weights, canaries, shadows, fallbacks, limits, TLS, keys.
edit either file while the gateway runs: the change is live within a second, and one with an error changes nothing.
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "status":
        return int(args.run(args))
    if args.nodes is None and args.config is None:
        parser.error("give a node file with --nodes, a gateway.toml with --config, or both")
    logging.basicConfig(
        level=args.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it reports every event of the folder
    return _serve(args) if args.command == "serve" else int(args.run(args))


def _serve(args: argparse.Namespace) -> int:
    from services.gateway.supervisor import Place, StartError, Supervisor, SupervisorOptions
    from services.gateway.supervisor_envoy import EnvoyOptions

    listen_host, listen_port = args.listen
    admin_host, admin_port = args.admin

    def control(place: Place) -> int:
        """In a process of its own."""
        from services.gateway import control
        from services.gateway.configuration import Sources
        from services.gateway.gateway import GatewayOptions

        options = GatewayOptions(
            sources=Sources(nodes=args.nodes, config=args.config),
            listen_host=listen_host,
            concurrency=args.concurrency,
            max_message_bytes=args.max_message_bytes,
        )
        return control.main(options, place)

    options = SupervisorOptions(
        listen_host=listen_host,
        listen_port=listen_port,
        admin_host=admin_host,
        admin_port=admin_port,
        drain_grace_s=args.drain_grace,
        drain_deadline_s=args.drain_deadline,
        envoy=EnvoyOptions(args.concurrency, args.envoy_log_level),
    )
    try:
        return Supervisor(options, control).run()
    except StartError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="One gRPC entry for every model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sources = argparse.ArgumentParser(add_help=False)
    sources.add_argument("--nodes", type=Path, metavar="FILE", help="a node file")
    sources.add_argument(
        "--config", type=Path, metavar="FILE", help="a gateway.toml; beside --nodes it refines its tasks"
    )
    sources.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    serve = commands.add_parser(
        "serve",
        parents=[sources],
        help="take traffic",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument(
        "--listen",
        type=_address,
        default=("0.0.0.0", 8080),
        metavar="HOST:PORT",
        help="where callers connect; port 0 takes a free one (default 0.0.0.0:8080)",
    )
    serve.add_argument(
        "--admin",
        type=_address,
        default=("127.0.0.1", 9901),
        metavar="HOST:PORT",
        help="status page and metrics; keep it on loopback (default 127.0.0.1:9901)",
    )
    serve.add_argument(
        "--concurrency",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="Envoy's worker threads (default: one a core)",
    )
    serve.add_argument(
        "--max-message-bytes",
        type=_positive,
        default=DEFAULT_MAX_MESSAGE_BYTES,
        metavar="BYTES",
        help="the largest request message (default 10 MiB)",
    )
    serve.add_argument(
        "--drain-grace",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="after SIGTERM: how long to serve on while health says NOT_SERVING (default 1)",
    )
    serve.add_argument(
        "--drain-deadline",
        type=_seconds,
        default=15.0,
        metavar="SECONDS",
        help="after that: how long calls in flight may take to finish (default 15)",
    )
    serve.add_argument("--envoy-log-level", default="warning", help="trace, debug, info, warning, error, off")
    add_parsers(commands, sources)
    add_status_parser(commands)
    return parser


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HOST:PORT, like 127.0.0.1:8080")
    host = host.strip("[]") or "0.0.0.0"
    try:
        # Envoy takes only numbers: `localhost` is looked up here, as IPv4 where it has both.
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0]), int(port)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {host} has no address: {error.strerror}") from None


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds from 0 to 3600")
    return value


if __name__ == "__main__":
    sys.exit(main())
