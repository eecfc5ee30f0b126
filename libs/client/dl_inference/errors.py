"""What a call can fail with. One tree; the names of the codes are gRPC's."""

from __future__ import annotations


class InferenceError(Exception):
    """A call failed.

    Attributes:
        code: gRPC's name of the status, such as "NOT_FOUND".
        message: what the server, or this client, says about it.
        instance: the instance that said so, "" when none was reached.
        attempts: how often the call was sent.
    """

    code = "UNKNOWN"

    def __init__(self, message: str, *, code: str = "", instance: str = "", attempts: int = 0) -> None:
        self.code = code or self.code
        self.message = message
        self.instance = instance
        self.attempts = attempts
        super().__init__(f"{self.code}: {message}")


class InvalidInput(InferenceError):  # noqa: N818 (what is wrong, as a caller says it)
    """The request is not one that the model can take; sent again it fails again."""

    code = "INVALID_ARGUMENT"


class NotFound(InferenceError):  # noqa: N818
    """No such task, model or version."""

    code = "NOT_FOUND"


class NotAllowed(InferenceError):  # noqa: N818
    """The key or token is missing, wrong, or not for this task."""

    code = "PERMISSION_DENIED"


class Overloaded(InferenceError):  # noqa: N818
    """A queue, a rate or a size limit refused the call. It was not run: a caller may try later."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(InferenceError):  # noqa: N818
    """No instance could be reached, after the retries that the policy allows."""

    code = "UNAVAILABLE"


class DeadlineExceeded(InferenceError):  # noqa: N818
    """The time was over before the answer came."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(InferenceError):  # noqa: N818
    """The call was cancelled."""

    code = "CANCELLED"


class ServerError(InferenceError):
    """The model or the server failed."""

    code = "INTERNAL"


_KINDS: dict[str, type[InferenceError]] = {
    "INVALID_ARGUMENT": InvalidInput,
    "FAILED_PRECONDITION": InvalidInput,
    "OUT_OF_RANGE": InvalidInput,
    "NOT_FOUND": NotFound,
    "UNIMPLEMENTED": NotFound,
    "PERMISSION_DENIED": NotAllowed,
    "UNAUTHENTICATED": NotAllowed,
    "RESOURCE_EXHAUSTED": Overloaded,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "INTERNAL": ServerError,
    "DATA_LOSS": ServerError,
}

OURS_TO_MEND = frozenset(
    (
        "ALREADY_EXISTS",
        "CANCELLED",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OUT_OF_RANGE",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    )
)
"""Statuses that say nothing against the instance which answered with them."""


def error_of(code: str, message: str, *, instance: str = "", attempts: int = 0) -> InferenceError:
    """The error of a status, by gRPC's name of it."""
    kind = _KINDS.get(code, InferenceError)
    return kind(message or "(no message)", code=code, instance=instance, attempts=attempts)
