"""What server reflection tells of this project's services: their .proto files, serialized.

The only part of a model server that needs the generated modules and protobuf, so they are loaded when the first
question comes.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

# Of services that servers offer.
_MODULES = (
    "grpc_health_pb2",
    "grpc_reflection_v1_pb2",
    "grpc_reflection_v1alpha_pb2",
    "inference_pb2",
    "seldon_pb2",
    "tensorflow_serving_pb2",
)


class ServiceDescriptors:
    """The files of the private pool. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded = False

    def file(self, name: str) -> list[bytes] | None:
        """The serialized FileDescriptorProto of a file and those of all that it imports; None if there is none."""
        pool = self._pool()
        with suppress(KeyError):
            return list(_with_imports(pool.FindFileByName(name), set()))
        return None

    def file_containing(self, symbol: str) -> list[bytes] | None:
        """The same of the file that defines a service, method, message, field or enum by its full name."""
        pool = self._pool()
        with suppress(KeyError):
            return list(_with_imports(pool.FindFileContainingSymbol(symbol), set()))
        with suppress(KeyError):  # which does not look for methods
            return list(_with_imports(pool.FindMethodByName(symbol).containing_service.file, set()))
        return None

    def _pool(self) -> DescriptorPool:
        from libs.proto.pool import POOL

        with self._lock:
            if not self._loaded:
                for module in _MODULES:
                    importlib.import_module(f"libs.proto.{module}")
                self._loaded = True
        return POOL


def _with_imports(file: FileDescriptor, seen: set[str]) -> Iterator[bytes]:
    if file.name not in seen:
        seen.add(file.name)
        yield file.serialized_pb
        for imported in file.dependencies:
            yield from _with_imports(imported, seen)
