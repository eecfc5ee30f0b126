"""Names and numbers that Envoy's configuration and those who ask Envoy about it share."""

from __future__ import annotations

LISTENER = "public"
ROUTES = "tasks"  # the name of the route configuration
STATS = "public"  # prefix of the listener's statistics: http.public.*

DRAIN_S = 1  # from telling callers to go elsewhere until it is final
# How long the connections of a listener that an edit has replaced may finish their calls, each on the way it began. Calls
# last for an hour at most (table.MAX_TIMEOUT_MS); callers are told at their next answer to open a new connection.
REPLACED_DRAIN_S = 3660
