"""The tf-serving command."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from libs.serving.envoy_child import Limits
from libs.serving.server import run_server
from services.tf_serving import flags
from services.tf_serving.model import saved_model
from services.tf_serving.model.versions import ModelError, latest
from services.tf_serving.options import VARIABLE


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parsed = flags.parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        level=parsed.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    return serve(parsed)


def serve(parsed: argparse.Namespace) -> int:
    """Run the embedded server until it is told to stop."""
    options = flags.options(parsed)
    try:
        # Importing TensorFlow takes seconds; what the files alone tell is told at once.
        saved_model.read(latest(options.base_path).path)
    except ModelError as error:
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
    )


if __name__ == "__main__":
    sys.exit(main())
