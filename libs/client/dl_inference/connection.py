"""Channels and their options, for both kinds of client."""

from __future__ import annotations

import json
from typing import Any

import grpc

from dl_inference.calls import Call
from dl_inference.errors import InferenceError, error_of
from dl_inference.options import Options, Tls

INSTANCE = "x-dl-instance"
"""Trailing or leading metadata in which a gateway says who answered."""

_BALANCED = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})

_COMPRESSION = {
    None: grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


def channel_options(options: Options) -> list[tuple[str, Any]]:
    """grpcio's channel arguments."""
    arguments: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", -1),  # what the server takes is for the server to say
        # Find a peer that is gone without a word: pings, and for a connection in use TCP_USER_TIMEOUT, which gRPC sets
        # to the ping's.
        ("grpc.keepalive_time_ms", round(options.silence_s * 3000)),
        ("grpc.keepalive_timeout_ms", round(options.silence_s * 1000)),
        # A restarted server is found again within a second or so.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_retries", 0),  # retries are made here, where they go elsewhere and within the budget
        ("grpc.service_config", _BALANCED),
    ]
    tls = options.tls
    if isinstance(tls, Tls) and tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return arguments


def credentials(options: Options) -> grpc.ChannelCredentials | None:
    """What secures the connection; None for plaintext."""
    if not options.tls:
        return None
    tls = options.tls if isinstance(options.tls, Tls) else Tls()
    return grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)


def compression(options: Options) -> grpc.Compression:
    """grpcio's name of it."""
    return _COMPRESSION[options.compression]


def metadata(options: Options, call: Call[Any]) -> list[tuple[str, str]]:
    """What goes with one call: the caller's own, its key or token, and the task where the message need not be read."""
    pairs = [(key.lower(), value) for key, value in options.metadata.items()]
    if options.api_key:
        pairs.append(("x-api-key", options.api_key))
    token = options.token() if callable(options.token) else options.token
    if token:
        pairs.append(("authorization", f"Bearer {token}"))
    if call.task is not None:
        pairs.append(("x-dl-task", str(call.task)))
    return pairs


def instance_of(*metadata: Any, default: str = "") -> str:
    """Who answered, from leading and trailing metadata."""
    for pairs in metadata:
        for key, value in pairs or ():
            if key == INSTANCE:
                return value if isinstance(value, str) else bytes(value).decode("ascii", "replace")
    return default


def failure(error: Any, *, instance: str, attempts: int) -> InferenceError:
    """The client's error for a grpc.RpcError that has a code."""
    return error_of(error.code().name, error.details() or "", instance=instance, attempts=attempts)
