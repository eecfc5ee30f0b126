"""The `serve` command."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING

from libs.serving.envoy_child import Limits
from libs.serving.server import run_server
from services.tf_serving import serve_flags
from services.tf_serving.execution import batching_parameters, libraries
from services.tf_serving.execution.batching_parameters import BatchingParametersError
from services.tf_serving.model.versions import ModelError
from services.tf_serving.monitoring import settings as monitoring
from services.tf_serving.monitoring.settings import MonitoringConfigError
from services.tf_serving.options import VARIABLE
from services.tf_serving.serving import model_configs

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_command(commands: Commands) -> None:
    """Make `serve` known to the command line."""
    parser = commands.add_parser(
        "serve",
        help="serve models",
        description="Serve models over gRPC and REST.",
        epilog=serve_flags.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve_flags.add(parser)
    parser.set_defaults(run=partial(run, parser))


def run(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    """Run the embedded server until it is told to stop."""
    problem = serve_flags.contradiction(parsed)
    if problem:
        parser.error(problem)
    options = serve_flags.options(parsed)
    try:
        # Importing TensorFlow takes seconds; what the files alone tell is told at once.
        model_configs.check(model_configs.configured(options))
        batching_parameters.effective(options)
        monitoring.metrics_path(options)
        libraries.check(options.load_library)
    except (ModelError, BatchingParametersError, MonitoringConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return run_server(
        "services.tf_serving.app:app",
        host=parsed.host,
        port=parsed.port,
        env={VARIABLE: options.to_json()},
        drain_grace_s=parsed.drain_grace_s,
        drain_deadline_s=parsed.drain_deadline_s,
        log_level=parsed.log_level,
        limits=Limits(max_message_bytes=options.max_message_bytes),
        http_port=options.rest_api_port or None,
    )
