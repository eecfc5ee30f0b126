"""Envoy's API as protobuf messages, from the descriptors that the build collects (see describe_xds.py).

The descriptors live in a pool of their own, so other packages that register Envoy's names do not clash with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.message import Message

_RUNTIME = (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)


def _load(path: Path) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in _RUNTIME:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _load(Path(__file__).with_name("xds.binpb"))


def message_class(full_name: str) -> Any:
    """Returns the class of `full_name`, for example "envoy.config.cluster.v3.Cluster"; KeyError when unknown."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


def parse(full_name: str, fields: Mapping[str, Any]) -> Any:
    """Builds a message from the JSON form that Envoy's documentation uses; json_format.ParseError names a bad field."""
    return json_format.ParseDict(dict(fields), message_class(full_name)(), descriptor_pool=POOL)


def pack(message: Message) -> Any:
    """Returns the message as google.protobuf.Any of this pool, typed type.googleapis.com/<full name>; equal messages
    give equal bytes."""
    packed = message_class("google.protobuf.Any")()
    packed.Pack(message, deterministic=True)
    return packed


def stream_handler(
    service: str,
    method: str,
    request: str,
    behaviour: Callable[[AsyncIterator[Any], Any], AsyncIterator[Any]],
) -> grpc.GenericRpcHandler:
    """Returns a service of one bidirectional streaming method, for a grpc.aio server; `request` is a message's name."""
    handler = grpc.stream_stream_rpc_method_handler(
        behaviour, message_class(request).FromString, lambda message: message.SerializeToString()
    )
    return grpc.method_handlers_generic_handler(service, {method: handler})
