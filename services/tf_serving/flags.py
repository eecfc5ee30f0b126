"""The command line of tf-serving: which commands there are. What each takes stands in a module of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from services.tf_serving import serve_command
from services.tf_serving.config import check_command, config_command, export_command

EPILOG = """\
examples:
  tf-serving serve --model-name textcnn-69 --model-base-path var/models/textcnn --port 8500
  tf-serving serve --model-config-file models.config --model-config-file-poll-wait-seconds 60

A model base path holds one folder per version, named as a number: var/models/textcnn/1/saved_model.pb.
Requests must carry exactly the model name in model_spec.name; behind the gateway that is the name its
callers send, such as textcnn-69. `serve` may be left out: tf-serving --port=8500 --model_name=... works too.
`tf-serving COMMAND --help` tells more of each.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; its `run` does what was asked and answers the exit status. Ends the process with
    status 2 for bad usage, 0 for --help.

    Arguments that begin with a flag, as TensorFlow Serving's do, are those of `serve`.
    """
    given = [_dashes(argument) for argument in arguments]
    if given and given[0].startswith("--") and given[0] != "--help":
        given.insert(0, "serve")
    return _parser().parse_args(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tf-serving",
        description="TensorFlow Serving's API over SavedModels, without its image.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve_command.add_command(commands)
    config_command.add_command(commands)
    check_command.add_command(commands)
    export_command.add_command(commands)
    return parser


def _dashes(argument: str) -> str:
    """`--model_name=x` as `--model-name=x`; a value keeps its underscores."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value
