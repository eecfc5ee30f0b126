"""Exceptions that nobody meant to raise: details to the log, an id to the caller."""

from __future__ import annotations

import logging
import secrets

from libs.serving.errors import Internal

log = logging.getLogger(__name__)


def defect(where: str, error: BaseException) -> Internal:
    """Logs an unexpected exception with its traceback; the answer holds nothing but an id to find it by."""
    ident = secrets.token_hex(4)
    log.error("%s failed (id %s)", where, ident, exc_info=error)
    internal = Internal(f"internal error (id {ident}; the server's log has the details)")
    internal.__cause__ = error
    return internal
