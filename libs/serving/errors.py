"""The domain error tree of the serving core.

Handlers, batchers and engines raise these. They know neither gRPC nor HTTP: each transport maps them through
the one total table in `libs.serving.status`. The names follow the canonical error space
(https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto), because it is the vocabulary
that callers of an RPC already share.

The message of a `ServingError` is shown to the caller, so it says what was wrong and what was expected, and
never holds a traceback, a path of the server or a caller's data. Any other exception counts as a defect: the
caller sees an id only, and the details go to the log.
"""

from __future__ import annotations


class ServingError(Exception):
    """Base of the errors that a caller may see. Raise one of the subclasses.

    Args:
        message: what was wrong and what was expected, for the caller's eyes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(ServingError):  # noqa: N818 - the canonical names carry no "Error" suffix
    """The request can never succeed as it is: malformed, wrong dtype or shape, too many rows."""


class NotFound(ServingError):  # noqa: N818
    """The model, version, signature or service asked for does not exist here."""


class FailedPrecondition(ServingError):  # noqa: N818
    """The request is well formed, but the server's state does not allow it and retrying alone will not
    help."""


class ResourceExhausted(ServingError):  # noqa: N818
    """A bound was hit: a full queue, a message over the size limit. Retrying later or elsewhere may help."""


class DeadlineExceeded(ServingError):  # noqa: N818
    """The caller's deadline passed before an answer existed."""


class Cancelled(ServingError):  # noqa: N818
    """The caller went away before an answer existed."""


class Unavailable(ServingError):  # noqa: N818
    """The server cannot serve now (starting, draining, backend gone). Nothing was processed: retry
    elsewhere."""


class Unimplemented(ServingError):  # noqa: N818
    """The method or the feature asked for is not offered."""


class Internal(ServingError):  # noqa: N818
    """An invariant of the server broke; not the caller's fault."""


class PermissionDenied(ServingError):  # noqa: N818
    """The caller is known and may not do this."""


class Unauthenticated(ServingError):  # noqa: N818
    """The caller's credentials are missing or wrong."""
