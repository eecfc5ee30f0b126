"""Names and numbers that Envoy's configuration and those who ask Envoy about it share."""

from __future__ import annotations

from libs.balancing.nodefile import MAX_TASK_ID

LISTENER = "public"
ROUTES = "tasks"  # the name of the route configuration
STATS = "public"  # prefix of the listener's statistics: http.public.*

DEFAULT_MAX_MESSAGE_BYTES = 10 << 20
MAX_MESSAGE_BYTES = 1_000_000_000  # two of them fit into a window of HTTP/2

DRAIN_S = 1  # from telling callers to go elsewhere until it is final
# How long the connections of a listener that an edit has replaced may finish their calls, each on the way it began.
# Calls last for an hour at most (MAX_TIMEOUT_MS); callers are told at their next answer to open a new connection.
REPLACED_DRAIN_S = 3660


def task_id_of(name: str) -> int | None:
    """The task that a model's name like `textcnn-69` means: the digits after its last hyphen, or all of them."""
    digits = name.rpartition("-")[2]
    if not (digits.isascii() and digits.isdigit()):
        return None
    significant = digits.lstrip("0")
    number = int(significant) if 1 <= len(significant) <= 10 else 0
    return number if number <= MAX_TASK_ID else None
