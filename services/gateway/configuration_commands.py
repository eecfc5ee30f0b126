"""The commands that read a configuration and serve nothing: their flags and help."""

from __future__ import annotations

import argparse
from typing import Any

from services.gateway.names import DEFAULT_MAX_MESSAGE_BYTES
from services.gateway.serve_commands import message_bytes

# What a command needs is imported by it: `serve` stays small.

_CHECK = """\
examples:
  gateway check --nodes nodefile.txt
  gateway check --config gateway.toml
  gateway check --config gateway.toml --nodes nodefile.txt

every error is on a line of its own, as FILE:LINE: FIELD: what is wrong; expected what; hint: what to do
exit status: 0 when the gateway would take it, 2 when not
"""
_RENDER = """\
examples:
  gateway render --config gateway.toml                  all that the control plane serves to Envoy
  gateway render --config gateway.toml --task 69        one task's part of it
  gateway render --nodes nodefile.txt --bootstrap 127.0.0.1:9901 > envoy.json
                                                        one file for an Envoy without control plane

the output is JSON, the same for the same files, without keys. Names stand where a running gateway has addresses.
A file of --bootstrap needs ENVOY_DYNAMIC_MODULES_SEARCH_PATH: the folder of libdl_route.so.
"""
_EXPLAIN = """\
examples:
  gateway explain --config gateway.toml --model textcnn-69
  gateway explain --nodes nodefile.txt --task 69 --method PytorchPredict
  gateway explain --nodes nodefile.txt --task 69 --admin 127.0.0.1:9901     with health, weights, shares as they are

exit status: 0, 1 when the call would be refused, 2 when the configuration or the question is wrong
"""


def add_parsers(commands: Any, sources: argparse.ArgumentParser) -> None:
    """Adds `check`, `render` and `explain`; each sets `run`, which takes the arguments and gives the exit status.
    `sources` has --nodes and --config."""

    def add(name: str, told: str, epilog: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name,
            parents=[sources],
            help=told,
            description=told,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return parser

    check = add("check", "validate a configuration: every error with its line", _CHECK)
    check.set_defaults(run=_check)
    render = add("render", "print what Envoy is told for a configuration", _RENDER)
    render.set_defaults(run=_render)
    render.add_argument("--task", type=int, metavar="ID", help="only this task and its pools")
    render.add_argument(
        "--bootstrap",
        type=_endpoint,
        metavar="ADMIN",
        help="one bootstrap for Envoy alone; ADMIN is where its admin interface is to listen, as HOST:PORT",
    )
    render.add_argument(
        "--listen", type=_endpoint, metavar="HOST:PORT", help="where callers connect (default 0.0.0.0:8080)"
    )
    render.add_argument(
        "--max-message-bytes",
        type=message_bytes,
        default=DEFAULT_MAX_MESSAGE_BYTES,
        metavar="BYTES",
        help="as for serve",
    )
    explain = add("explain", "say where a request would go, and why", _EXPLAIN)
    explain.set_defaults(run=_explain)
    asked = explain.add_mutually_exclusive_group(required=True)
    asked.add_argument("--model", metavar="NAME", help="a model's name as callers write it, like textcnn-69")
    asked.add_argument("--task", type=int, metavar="ID", help="a task id")
    explain.add_argument(
        "--method", metavar="NAME", help="Predict, TisPredict, PredictionService/Classify, ..."
    )
    explain.add_argument(
        "--admin", metavar="URL", help="the admin address of a running gateway to ask as well"
    )
    explain.add_argument("--json", action="store_true", help="the same as JSON")


def _check(args: argparse.Namespace) -> int:
    from services.gateway.check import check
    from services.gateway.configuration import Sources

    return check(Sources(nodes=args.nodes, config=args.config))


def _render(args: argparse.Namespace) -> int:
    from libs.balancing.endpoint import Endpoint
    from services.gateway import render_command
    from services.gateway.configuration import Sources
    from services.gateway.listener import ListenerOptions

    listen = args.listen or Endpoint("0.0.0.0", 8080)
    return render_command.run(
        Sources(nodes=args.nodes, config=args.config),
        ListenerOptions(listen.host, listen.port, args.max_message_bytes),
        task=args.task,
        static_admin=args.bootstrap,
    )


def _explain(args: argparse.Namespace) -> int:
    from services.gateway import explain_command
    from services.gateway.configuration import Sources
    from services.gateway.explain import Question

    return explain_command.run(
        Sources(nodes=args.nodes, config=args.config),
        Question(args.model, args.task, args.method),
        admin=args.admin,
        as_json=args.json,
    )


def _endpoint(text: str) -> Any:
    from libs.balancing.endpoint import Endpoint, EndpointError

    try:
        return Endpoint.parse(text)
    except EndpointError as error:
        raise argparse.ArgumentTypeError(f"{error}; expected {error.expected}") from None
