"""The private descriptor pool of the generated modules.

Official packages (tensorflow-serving-api, tritonclient, seldon-core) register the same full names as our
stubs, from files of other names, in protobuf's default pool; a second registration there is an error. So
our files live in a pool of their own: `generate.py` rewrites the generated modules to register here.

A pool resolves imports only within itself, so it holds its own copy of the well-known types that the
protos import, and their message classes differ from `google.protobuf.*_pb2`'s. The classes here are the
ones that fit into our messages; behaviour and wire format are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import any_pb2, empty_pb2, struct_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()
for _module in (any_pb2, empty_pb2, struct_pb2, wrappers_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.struct_pb2 import ListValue, Struct, Value
    from google.protobuf.wrappers_pb2 import Int64Value
else:
    Any = GetMessageClass(POOL.FindMessageTypeByName("google.protobuf.Any"))
    Empty = GetMessageClass(POOL.FindMessageTypeByName("google.protobuf.Empty"))
    Int64Value = GetMessageClass(POOL.FindMessageTypeByName("google.protobuf.Int64Value"))
    ListValue = GetMessageClass(POOL.FindMessageTypeByName("google.protobuf.ListValue"))
    Struct = GetMessageClass(POOL.FindMessageTypeByName("google.protobuf.Struct"))
    Value = GetMessageClass(POOL.FindMessageTypeByName("google.protobuf.Value"))

__all__ = ["POOL", "Any", "Empty", "Int64Value", "ListValue", "Struct", "Value"]
