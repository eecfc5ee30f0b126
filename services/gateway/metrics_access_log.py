"""The part of the listener that counts calls: an access logger of the gateway's own module, see filter/call_log.c."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from services.gateway.filter import module
from services.gateway.xds_messages import POOL

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
_PACKAGE = "envoy.extensions.access_loggers.dynamic_modules.v3"
_MESSAGE = "DynamicModuleAccessLog"
_MODULE_CONFIG = "envoy.extensions.dynamic_modules.v3.DynamicModuleConfig"


def _register() -> None:
    """Adds Envoy's message for such a logger, which the published descriptors of its version lack."""
    file = descriptor_pb2.FileDescriptorProto(
        name="envoy/extensions/access_loggers/dynamic_modules/v3/dynamic_modules.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[
            POOL.FindMessageTypeByName(_MODULE_CONFIG).file.name,
            POOL.FindMessageTypeByName("google.protobuf.Any").file.name,
        ],
    )
    message = file.message_type.add(name=_MESSAGE)
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, name, kind in (
        (1, "dynamic_module_config", _MODULE_CONFIG),
        (2, "logger_name", ""),
        (3, "logger_config", "google.protobuf.Any"),
    ):
        field = message.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
        field.type = kinds.TYPE_MESSAGE if kind else kinds.TYPE_STRING
        if kind:
            field.type_name = f".{kind}"
    POOL.AddSerializedFile(file.SerializeToString())


_register()


def entries(counters: Path | None) -> list[Json]:
    """What goes into the connection manager's `access_log` to count every call into the file; nothing without one.

    Where Envoy cannot open the file it logs that and counts nothing.
    """
    if counters is None:
        return []
    return [
        {
            "name": "calls",
            "typed_config": {
                "@type": f"{_TYPE}{_PACKAGE}.{_MESSAGE}",
                "dynamic_module_config": {"name": module.NAME},
                "logger_name": "calls",
                "logger_config": {"@type": f"{_TYPE}google.protobuf.StringValue", "value": str(counters)},
            },
        }
    ]
