"""The `gateway` command."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from services.gateway.configuration_commands import add_parsers
from services.gateway.serve_commands import add_serve_parsers
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
    if "nodes" in args and args.nodes is None and args.config is None:
        parser.error("give a node file with --nodes, a gateway.toml with --config, or both")
    logging.basicConfig(
        level=args.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it reports every event of the folder
    return int(args.run(args))


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
    add_serve_parsers(commands, sources)
    add_parsers(commands, sources)
    add_status_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
