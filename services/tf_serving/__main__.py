"""The tf-serving command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from services.tf_serving import flags


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parsed = flags.parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        level=getattr(parsed, "log_level", "INFO"),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    status: int = parsed.run(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
