"""The flags of `tf-serving serve`, which are TensorFlow Serving's where it has them."""

from __future__ import annotations

import argparse
from pathlib import Path

from services.tf_serving import flag_types
from services.tf_serving.options import (
    DEFAULT_MAX_BATCH_SIZE,
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_MAX_QUEUE,
    DEFAULT_MODEL_NAME,
    DEFAULT_PORT,
    Options,
)

EPILOG = """\
examples:
  on every interface, port 8500:
    tf-serving serve --model-name textcnn-69 --model-base-path var/models/textcnn --host 0.0.0.0
  several models, version policies and labels, followed as the file changes:
    tf-serving serve --model-config-file models.config --model-config-file-poll-wait-seconds 60
  rows of concurrent requests share a run:
    tf-serving serve --model-name textcnn-69 --model-base-path var/models/textcnn --enable-batching
  on any free port, for a test:
    tf-serving serve --model-name textcnn-69 --model-base-path var/models/textcnn --port 0

New versions are loaded beside those that serve. Prints `READY host:port` once every model can answer.
A large model with few callers at a time: --model-threads 1 gives every core to the one call.
Flags may be written as TensorFlow Serving writes them: --model_name, --enable_batching=true.
Exit status: 0 after a stop by SIGTERM or SIGINT, 1 when a model or the port cannot be used,
2 for bad usage.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser all flags of `serve`."""
    _add_model_flags(parser)
    _add_thread_flags(parser)
    _add_batching_flags(parser)
    _add_other_flags(parser)


def contradiction(parsed: argparse.Namespace) -> str:
    """What is wrong with the flags of `serve` together; "" if nothing is."""
    if not parsed.model_base_path and not parsed.model_config_file:
        return "one of these is required: --model-base-path, --model-config-file"
    if parsed.batching_parameters_file and not parsed.enable_batching:
        return "--batching-parameters-file without --enable-batching does nothing: expected both or neither"
    if parsed.enable_per_model_batching_parameters and not parsed.enable_batching:
        return "--enable-per-model-batching-parameters without --enable-batching does nothing: expected both"
    if parsed.rest_api_port and parsed.rest_api_port == parsed.port:
        return f"--rest-api-port and --port are both {parsed.port}: expected different ones"
    return ""


def options(parsed: argparse.Namespace) -> Options:
    """The serving process's part of what was said."""
    return Options(
        model_name=parsed.model_name,
        model_base_path=_absolute(parsed.model_base_path),
        model_config_file=_absolute(parsed.model_config_file),
        model_config_file_poll_wait_s=parsed.model_config_file_poll_wait_seconds,
        file_system_poll_wait_s=parsed.file_system_poll_wait_seconds,
        allow_version_labels_for_unavailable_models=parsed.allow_version_labels_for_unavailable_models,
        max_num_load_retries=parsed.max_num_load_retries,
        load_retry_interval_s=parsed.load_retry_interval_micros / 1e6,
        num_load_threads=parsed.num_load_threads,
        enable_reload_config=parsed.enable_reload_config,
        rest_api_port=parsed.rest_api_port,
        rest_api_timeout_ms=parsed.rest_api_timeout_in_ms,
        batching_parameters_file=_absolute(parsed.batching_parameters_file),
        per_model_batching=parsed.enable_per_model_batching_parameters,
        monitoring_config_file=_absolute(parsed.monitoring_config_file),
        load_library=tuple(_absolute(path) for paths in parsed.load_library for path in paths),
        intra_op_threads=parsed.intra_op_threads,
        inter_op_threads=parsed.inter_op_threads,
        model_threads=parsed.model_threads,
        in_place=parsed.in_place_calls,
        max_batch_size=parsed.max_batch_size if parsed.enable_batching else None,
        batch_timeout_ms=parsed.batch_timeout_ms,
        max_queue=parsed.max_queue,
        max_message_bytes=parsed.max_message_bytes,
        as_content=parsed.enable_serialization_as_tensor_content,
        check_method_name=parsed.enable_signature_method_name_check,
        warm_up=parsed.enable_model_warmup,
        log_level=parsed.log_level,
    )


def _absolute(path: str) -> str:
    """The path for a process that may run elsewhere; "" stays."""
    return str(Path(path).absolute()) if path else ""


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all [%(default)s]")
    add(
        "--port",
        type=flag_types.between(0, 65535),
        default=DEFAULT_PORT,
        help="gRPC port; 0 for a free one [%(default)s]",
    )
    add(
        "--rest-api-port",
        type=flag_types.between(0, 65535),
        default=0,
        metavar="PORT",
        help="port of the REST API, which the gRPC port serves too; 0 for none of its own [%(default)s]",
    )
    add(
        "--rest-api-timeout-in-ms",
        type=flag_types.between(1, 3_600_000),
        default=30_000,
        metavar="MS",
        help="bound of a REST request's time [%(default)s]",
    )
    models = parser.add_argument_group("models")
    add = models.add_argument
    add(
        "--model-name",
        type=flag_types.name,
        default=DEFAULT_MODEL_NAME,
        metavar="NAME",
        help="what requests call the one model [%(default)s]",
    )
    add("--model-base-path", default="", metavar="DIR", help="its folder of version folders")
    add(
        "--model-config-file",
        default="",
        metavar="FILE",
        help="a ModelServerConfig in protobuf's text format: several models, version policies, labels; "
        "--model-name and --model-base-path are ignored with it",
    )
    add(
        "--model-config-file-poll-wait-seconds",
        type=flag_types.poll_seconds,
        default=0.0,
        metavar="S",
        help="how often that file is read again; 0 for never [%(default)g]",
    )
    add(
        "--file-system-poll-wait-seconds",
        type=flag_types.poll_seconds,
        default=1.0,
        metavar="S",
        help="how often models' folders are looked at for versions; 0 for only at the start [%(default)g]",
    )
    _add_switch(
        models,
        "--allow-version-labels-for-unavailable-models",
        default=False,
        help="a new label may be given to a version that is not available yet",
    )
    add(
        "--max-num-load-retries",
        type=flag_types.between(0, 1_000_000),
        default=5,
        metavar="N",
        help="tries after a load that failed, while the files stay the same [%(default)s]",
    )
    add(
        "--load-retry-interval-micros",
        type=flag_types.between(0, 86_400_000_000),
        default=60_000_000,
        metavar="US",
        help="microseconds from one to the next [%(default)s]",
    )
    add(
        "--num-load-threads",
        type=flag_types.between(0, 64),
        default=0,
        metavar="N",
        help="models that load a version at a time; 0 is 1 [%(default)s]",
    )
    _add_switch(
        models,
        "--enable-reload-config",
        default=True,
        help="let callers change what is served, by ModelService.HandleReloadConfigRequest",
    )
    add(
        "--load-library",
        type=flag_types.names,
        action="append",
        default=[],
        metavar="FILE",
        help="a library of custom operators, loaded before the models; may be given again, or several with commas",
    )


def _add_thread_flags(parser: argparse.ArgumentParser) -> None:
    threads = parser.add_argument_group("threads")
    add = threads.add_argument
    add(
        "--intra-op-threads",
        "--tensorflow-intra-op-parallelism",
        type=flag_types.between(0, 1024),
        default=0,
        metavar="N",
        help="threads that share one kernel's work; 0 divides the cores among the model threads [%(default)s]",
    )
    add(
        "--inter-op-threads",
        "--tensorflow-inter-op-parallelism",
        type=flag_types.between(0, 1024),
        default=0,
        metavar="N",
        help="threads that run independent kernels of a call; 0: in order, no hand-over [%(default)s]",
    )
    add(
        "--model-threads",
        type=flag_types.between(0, 1024),
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
        type=flag_types.between(1, 1_000_000),
        default=DEFAULT_MAX_QUEUE,
        metavar="N",
        help="calls (with batching: rows) that may wait; more get RESOURCE_EXHAUSTED [%(default)s]",
    )


def _add_batching_flags(parser: argparse.ArgumentParser) -> None:
    batching = parser.add_argument_group(
        "batching (off unless switched on: rows must not influence each other)"
    )
    add = batching.add_argument
    _add_switch(
        batching, "--enable-batching", default=False, help="let rows of concurrent requests share a run"
    )
    add(
        "--max-batch-size",
        type=flag_types.between(1, 1_000_000),
        default=DEFAULT_MAX_BATCH_SIZE,
        metavar="ROWS",
        help="most rows in one run [%(default)s]",
    )
    add(
        "--batch-timeout-ms",
        type=flag_types.milliseconds,
        default=0.0,
        metavar="MS",
        help="how long a part batch waits under concurrent traffic; a lone request never does [%(default)s]",
    )
    add(
        "--batching-parameters-file",
        default="",
        metavar="FILE",
        help="BatchingParameters in protobuf's text format, in place of those above",
    )
    _add_switch(
        batching,
        "--enable-per-model-batching-parameters",
        default=False,
        help="batch only versions with a batching_params.pbtxt in their folder, by that; its batches are no larger "
        "than the server's, whose timeout and queue they have",
    )


def _add_other_flags(parser: argparse.ArgumentParser) -> None:
    other = parser.add_argument_group("messages, start and stop")
    add = other.add_argument
    add(
        "--max-message-bytes",
        type=flag_types.between(1, 2**31 - 1),
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
        "--enable-signature-method-name-check",
        default=False,
        help="classify and regress only by signatures that say they are for that; TensorFlow 2 writes none",
    )
    _add_switch(
        other,
        "--enable-model-warmup",
        default=True,
        help="run each signature once on zeros before the server is ready",
    )
    add(
        "--drain-grace-s",
        type=flag_types.seconds,
        default=1.0,
        metavar="S",
        help="on SIGTERM, seconds of serving on while unready [%(default)s]",
    )
    add(
        "--drain-deadline-s",
        type=flag_types.seconds,
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
    add(
        "--monitoring-config-file",
        default="",
        metavar="FILE",
        help="a MonitoringConfig in protobuf's text format: metrics under TensorFlow Serving's names",
    )


def _add_switch(group: argparse._ArgumentGroup, flag: str, *, default: bool, help: str) -> None:  # noqa: A002
    """`--flag`, `--flag=true` and `--flag=false`, as TensorFlow Serving takes them."""
    shown = "on" if default else "off"
    group.add_argument(
        flag,
        type=flag_types.truth,
        nargs="?",
        const=True,
        default=default,
        metavar="BOOL",
        help=f"{help} [{shown}]",
    )
