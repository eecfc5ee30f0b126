"""The command `torch-worker`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from libs.serving.envoy_child import Limits
from libs.serving.server import run_server
from libs.serving.versions import PolicyError, parse_policy
from services.torch_worker.config import (
    CONFIG_VARIABLE,
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_MAX_QUEUE,
    DEFAULT_REST_TIMEOUT_S,
    ConfigError,
    WorkerConfig,
)
from services.torch_worker.flags import add_model_flags, model_options, number
from services.torch_worker.folder_commands import add_commands
from services.torch_worker.serving.version_check import check_folder

APP = "services.torch_worker.app:app"

EPILOG = """\
examples:
  torch-worker serve --model-dir var/models/mmoe
  torch-worker serve --model-dir /models/digits --host 0.0.0.0 --port 8866 --device cuda:0
  torch-worker serve --model-dir m --max-batch-size 32 --max-delay-ms 2 --threads 4

the model folder holds one of
  model.pth          the whole model, saved with torch.save(model, "model.pth"), and the *.py files of its classes
  model.pt           TorchScript
  model.pt2          a program saved with torch.export.save
  model.safetensors  weights (or weights.pth, a state dict), and model.py with build_model(), whose model they go into
  MyModel.py         a class MyModel with predict(self, X, names, meta) as Seldon has it; also load, tags, metrics
and, optional,
  processor.py       preprocess(x, **kwargs), run_model(model, x, **kwargs), postprocess(x, **kwargs),
                     class_names = [...]; kwargs["meta"]["tags"] is the request's tags
  config.toml        [model] batchable = true|false, max_batch_size = 64; [parameters], [[inputs]] and more: README
  requirements.txt   what its code needs; installed by `torch-worker prepare`, never by serve
`torch-worker check --model-dir DIR` loads a folder, says what it found, and ends.
A folder of versions, DIR/1, DIR/2 ..., is watched: new versions are loaded beside what serves, and take over.

one port serves, by gRPC: seldon.protos.Model/Predict and Seldon/Predict, inference.GRPCInferenceService (KServe V2),
grpc.health.v1.Health, reflection; by HTTP: POST /v2/models/NAME/infer (KServe V2), POST /predict and
/api/v1.0/predictions (Seldon), GET /v2 ..., /metrics, /health/live, /health/ready.
READY host:port is printed when the model takes requests. SIGTERM drains.
"""


def _policy(text: str) -> str:
    try:
        parse_policy(text)
    except PolicyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="torch-worker",
        description="Serve PyTorch models over the Seldon and KServe V2 protocols, by gRPC and REST.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        help="serve a model folder, or a folder of versions",
        description="Serve a model folder, or a folder of versions, over the Seldon and KServe V2 protocols, by gRPC "
        "and REST.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = serve.add_argument
    add(
        "--model-dir",
        required=True,
        type=Path,
        metavar="DIR",
        help="the model folder, see below, or a folder of versions",
    )
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default %(default)s)")
    add(
        "--port",
        type=number(int, 0, 65535),
        default=8866,
        help="port; 0 takes a free one (default %(default)s)",
    )
    add("--name", default="", help="the model's name in KServe's protocol (default: the folder's)")
    add(
        "--versions",
        type=_policy,
        default="latest",
        metavar="latest[:N]|all|N,N",
        help="which versions of a folder of versions are served (default %(default)s)",
    )
    add(
        "--watch-interval",
        type=number(float, 0, 3600),
        default=2.0,
        metavar="S",
        help="how often the folder is looked at for new versions; 0: never (default %(default)s)",
    )
    add_model_flags(add)
    add(
        "--max-queue",
        type=number(int, 1, 10_000_000),
        default=DEFAULT_MAX_QUEUE,
        metavar="ROWS",
        help="most rows waiting for the model; beyond, calls are refused with RESOURCE_EXHAUSTED "
        "(default %(default)s)",
    )
    add(
        "--hook-threads",
        type=number(int, 0, 256),
        default=0,
        metavar="N",
        help="threads that run preprocess; 0: one a usable core, at most 8 (default)",
    )
    add(
        "--max-message-bytes",
        type=number(int, 1024, 1 << 30),
        default=DEFAULT_MAX_MESSAGE_BYTES,
        metavar="BYTES",
        help="largest request message (default %(default)s)",
    )
    add(
        "--rest-timeout",
        type=number(float, 0.001, 86_400),
        default=DEFAULT_REST_TIMEOUT_S,
        metavar="S",
        help="when an HTTP request ends whose caller names no time, or a longer one (default %(default)s)",
    )
    add(
        "--log-requests",
        type=number(float, 0, 1),
        default=0.0,
        metavar="SHARE",
        help="share of the requests that are logged, 0 to 1 (default %(default)s)",
    )
    add(
        "--no-load-report",
        action="store_true",
        help="leave the load report (ORCA trailer, for balancers) out of the answers",
    )
    add(
        "--drain-grace",
        type=number(float, 0, 3600),
        default=1.0,
        metavar="S",
        help="seconds of full service after SIGTERM has made the worker unready (default %(default)s)",
    )
    add(
        "--drain-deadline",
        type=number(float, 0, 3600),
        default=30.0,
        metavar="S",
        help="seconds that calls in flight then have to end (default %(default)s)",
    )
    add(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="default %(default)s",
    )
    serve.set_defaults(run=run_serve)
    add_commands(commands)
    return parser


def run_serve(args: argparse.Namespace) -> int:
    """Run `torch-worker serve` until a signal ends it; returns the exit status."""
    config = WorkerConfig(
        model_dir=str(args.model_dir.absolute()),
        name=args.name,
        versions=args.versions,
        watch_interval_s=args.watch_interval,
        max_queue=args.max_queue,
        hook_threads=args.hook_threads,
        max_message_bytes=args.max_message_bytes,
        rest_timeout_s=args.rest_timeout,
        log_requests=args.log_requests,
        load_report=not args.no_load_report,
        log_level=args.log_level.upper(),
        **model_options(args),
    )
    try:
        check_folder(args.model_dir)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return run_server(
        APP,
        host=args.host,
        port=args.port,
        env={CONFIG_VARIABLE: config.to_json()},
        drain_grace_s=args.drain_grace,
        drain_deadline_s=args.drain_deadline,
        log_level=args.log_level,
        limits=Limits(max_message_bytes=args.max_message_bytes),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command; returns the exit status."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        level=args.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
