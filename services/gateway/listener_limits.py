"""Explicit limits on what a caller may send, hold open and leave unread. Pure."""

from __future__ import annotations

from typing import Any

from services.gateway.bootstrap import LIVE_RUNTIME
from services.gateway.names import LISTENER
from services.gateway.table import Edge
from services.gateway.xds_messages import parse

Json = dict[str, Any]

MIB = 1 << 20
FRAME_BYTES = 5  # a gRPC message travels behind one flag byte and four bytes of length

# Of one connection: what Envoy has read and not yet forwarded, or been given and not yet written. A caller that does
# not read its answers stops its instances' answers from being read here.
CONNECTION_BUFFER_BYTES = MIB
# A caller that does not finish its TLS handshake, or connects and sends nothing that tells what it speaks.
HANDSHAKE_TIMEOUT = "10s"

CONNECTION_MANAGER: Json = {
    # No byte in either direction. Streaming calls (Health/Watch, ModelStreamInfer) may pause that long.
    "stream_idle_timeout": "300s",
    # A caller that does not read an answer that is complete here. A message of 10 MiB passes in it at 1.4 Mbit/s.
    "stream_flush_timeout": "60s",
    # Headers that trickle in (slow loris).
    "request_headers_timeout": "10s",
    # After an answer that closes the connection: for the caller to read it before the close.
    "delayed_close_timeout": "1s",
    "max_request_headers_kb": 32,
    "common_http_protocol_options": {
        "idle_timeout": "3600s",
        "max_headers_count": 100,
        "headers_with_underscores_action": "ALLOW",  # gRPC metadata may have them
    },
}


def http2(max_message_bytes: int) -> Json:
    """What one HTTP/2 connection may do."""
    largest = max_message_bytes + FRAME_BYTES
    return {
        "max_concurrent_streams": 1024,
        "hpack_table_size": 4096,
        # Envoy holds no more of a request than its stream window, so the window is the message limit. A whole
        # message then travels without waiting for window updates. The connection's window bounds what one
        # caller has on the way to us.
        "initial_stream_window_size": max(largest, MIB),
        "initial_connection_window_size": max(2 * largest, 16 * MIB),
        # Floods of control frames close the connection (CVE-2019-9511 to 9518 and kin).
        "max_outbound_frames": 10_000,
        "max_outbound_control_frames": 1000,
        "max_consecutive_inbound_frames_with_empty_payload": 1,
        "max_inbound_priority_frames_per_stream": 100,
        "max_inbound_window_update_frames_per_data_frame_sent": 10,
        "override_stream_error_on_invalid_http_message": True,
        # A caller whose machine vanished must not hold its streams for ever.
        "connection_keepalive": {"interval": "60s", "timeout": "20s"},
    }


def live_runtime(edge: Edge) -> Any:
    """The runtime layer that follows the configuration, as Envoy's message. A connection over the limit is closed as
    soon as it was accepted."""
    limits = {f"envoy.resource_limits.listener.{LISTENER}.connection_limit": edge.max_connections}
    return parse("envoy.service.runtime.v3.Runtime", {"name": LIVE_RUNTIME, "layer": limits})
