"""The command line of tf-serving: what may be said, and what is wrong with what was said."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from services.tf_serving.options import (
    DEFAULT_MAX_BATCH_SIZE,
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_MAX_QUEUE,
    DEFAULT_PORT,
    Options,
)

EPILOG = """\
examples:
  tf-serving serve --model-name textcnn-69 --model-base-path var/models/textcnn --port 8500
  tf-serving serve --model-name half_plus_two-70 --model-base-path var/models/half_plus_two --port 0

The model base path holds one folder per version, named as a number: var/models/textcnn/1/saved_model.pb.
The highest version is served. Requests must carry exactly the model name in model_spec.name; behind the
gateway that is the name its callers send, such as textcnn-69. Prints `READY host:port` once it serves.
"""

SERVE_EPILOG = """\
examples:
  on every interface, port 8500:
    tf-serving serve --model-name textcnn-69 --model-base-path var/models/textcnn --host 0.0.0.0
  rows of concurrent requests share a run:
    tf-serving serve --model-name textcnn-69 --model-base-path var/models/textcnn --enable-batching
  on any free port, for a test:
    tf-serving serve --model-name textcnn-69 --model-base-path var/models/textcnn --port 0

A large model with few callers at a time: --model-threads 1 gives every core to the one call.
Flags may be written as TensorFlow Serving writes them: --model_name, --enable_batching=true.
Exit status: 0 after a stop by SIGTERM or SIGINT, 1 when the model or the port cannot be used,
2 for bad usage.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line. Ends the process with status 2 for bad usage, 0 for --help."""
    return _parser().parse_args([_dashes(argument) for argument in arguments])


def options(parsed: argparse.Namespace) -> Options:
    """The serving process's part of what was said."""
    return Options(
        model_name=parsed.model_name,
        model_base_path=parsed.model_base_path,
        intra_op_threads=parsed.intra_op_threads,
        inter_op_threads=parsed.inter_op_threads,
        model_threads=parsed.model_threads,
        in_place=parsed.in_place_calls,
        max_batch_size=parsed.max_batch_size if parsed.enable_batching else None,
        batch_timeout_ms=parsed.batch_timeout_ms,
        max_queue=parsed.max_queue,
        max_message_bytes=parsed.max_message_bytes,
        as_content=parsed.enable_serialization_as_tensor_content,
        warm_up=parsed.enable_model_warmup,
        log_level=parsed.log_level,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tf-serving",
        description="TensorFlow Serving's API over SavedModels, without its image.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve_parser = commands.add_parser(
        "serve",
        help="serve the latest version of one model",
        description="Serve the latest version of one model over gRPC.",
        epilog=SERVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_serve_flags(serve_parser)
    return parser


def _add_serve_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model-name", required=True, type=_name, metavar="NAME", help="what requests call the model")
    add("--model-base-path", required=True, metavar="DIR", help="folder of version folders")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all [%(default)s]")
    add(
        "--port",
        type=_between(0, 65535),
        default=DEFAULT_PORT,
        help="gRPC port; 0 for a free one [%(default)s]",
    )
    threads = parser.add_argument_group("threads")
    add = threads.add_argument
    add(
        "--intra-op-threads",
        "--tensorflow-intra-op-parallelism",
        type=_between(0, 1024),
        default=0,
        metavar="N",
        help="threads that share one kernel's work; 0 divides the cores among the model threads [%(default)s]",
    )
    add(
        "--inter-op-threads",
        "--tensorflow-inter-op-parallelism",
        type=_between(0, 1024),
        default=0,
        metavar="N",
        help="threads that run independent kernels of a call; 0: in order, no hand-over [%(default)s]",
    )
    add(
        "--model-threads",
        type=_between(0, 1024),
        default=0,
        metavar="N",
        help="calls inside the runtime at a time; 0 is one per usable core, at most 4 [%(default)s]",
    )
    _add_switch(
        threads,
        "--in-place-calls",
        default=True,
        help="run calls that are quicker than a hand-over on the event loop's thread",
    )
    add(
        "--max-queue",
        type=_between(1, 1_000_000),
        default=DEFAULT_MAX_QUEUE,
        metavar="N",
        help="calls (with batching: rows) that may wait; more get RESOURCE_EXHAUSTED [%(default)s]",
    )
    batching = parser.add_argument_group(
        "batching (off unless switched on: rows must not influence each other)"
    )
    add = batching.add_argument
    _add_switch(
        batching, "--enable-batching", default=False, help="let rows of concurrent requests share a run"
    )
    add(
        "--max-batch-size",
        type=_between(1, 1_000_000),
        default=DEFAULT_MAX_BATCH_SIZE,
        metavar="ROWS",
        help="most rows in one run [%(default)s]",
    )
    add(
        "--batch-timeout-ms",
        type=_milliseconds,
        default=0.0,
        metavar="MS",
        help="how long a part batch waits under concurrent traffic; a lone request never does [%(default)s]",
    )
    other = parser.add_argument_group("messages, start and stop")
    add = other.add_argument
    add(
        "--max-message-bytes",
        type=_between(1, 2**31 - 1),
        default=DEFAULT_MAX_MESSAGE_BYTES,
        metavar="BYTES",
        help="most bytes of a request [%(default)s]",
    )
    _add_switch(
        other,
        "--enable-serialization-as-tensor-content",
        default=False,
        help="answer numbers in tensor_content instead of float_val and the like",
    )
    _add_switch(
        other,
        "--enable-model-warmup",
        default=True,
        help="run each signature once on zeros before the server is ready",
    )
    add(
        "--drain-grace-s",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="on SIGTERM, seconds of serving on while unready [%(default)s]",
    )
    add(
        "--drain-deadline-s",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="then seconds for calls in flight to end [%(default)s]",
    )
    add(
        "--log-level",
        type=str.upper,
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        default="INFO",
        help="[%(default)s]",
    )


def _add_switch(group: argparse._ArgumentGroup, flag: str, *, default: bool, help: str) -> None:  # noqa: A002
    """`--flag`, `--flag=true` and `--flag=false`, as TensorFlow Serving takes them."""
    shown = "on" if default else "off"
    group.add_argument(
        flag, type=_truth, nargs="?", const=True, default=default, metavar="BOOL", help=f"{help} [{shown}]"
    )


def _dashes(argument: str) -> str:
    """`--model_name=x` as `--model-name=x`; a value keeps its underscores."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() in ("true", "1")


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a name")
    return text


def _between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return value

    return parse


def _milliseconds(text: str) -> float:
    return _number(text, "milliseconds", 10_000)


def _seconds(text: str) -> float:
    return _number(text, "seconds", 3600)


def _number(text: str, unit: str, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= high:
        raise argparse.ArgumentTypeError(f"expected {unit} from 0 to {high:g}, got {text!r}")
    return value
