"""Explicit limits on what a caller may send, hold open and leave unread. Pure."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

MIB = 1 << 20
DEFAULT_MAX_MESSAGE_BYTES = 10 * MIB
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


# Envoy's runtime, where some limits live that no other message has. See bootstrap.py.
RUNTIME: Json = {
    # Rapid reset (CVE-2023-44487): a connection is closed when half of its first N calls, or of all later ones, were
    # cancelled within a second. Callers with deadlines of 100 ms cancel calls in earnest when their model is
    # overloaded, and grpcio sends all of a process's calls over one connection: Envoy's default of 500 would break
    # off the good ones among them. N costs an attacker who cancels at once about as many calls per connection,
    # which at 100 µs each is less than a second of one core before the connection is gone.
    "overload.premature_reset_total_stream_count": 10_000,
    "overload.premature_reset_min_stream_lifetime_seconds": 1,
    # Calls taken from one connection before the others get their turn, so that a burst on one does not stall them.
    "http.max_requests_per_io_cycle": 64,
}
