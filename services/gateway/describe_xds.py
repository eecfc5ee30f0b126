"""Build step: collects the part of Envoy's API that the gateway speaks into one FileDescriptorSet.

    python services/gateway/describe_xds.py services/gateway/xds.binpb

The xds-protos package holds each file's serialized FileDescriptorProto inside a generated Python module. They are read
as text: importing them would need protobuf beside xds-protos, and both ship a top-level `google` package, which a
virtual environment made of symlinks (Pex's) cannot merge.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

ROOTS = (
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/filters/http/lua/v3/lua.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
    "envoy/extensions/matching/common_inputs/network/v3/network_inputs.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/load_stats/v3/lrs.proto",
    "envoy/type/matcher/v3/http_inputs.proto",
)
# Protobuf's own files come with the protobuf package at run time.
RUNTIME_PREFIX = "google/protobuf/"
# descriptor.proto: FileDescriptorProto.name, .dependency; FileDescriptorSet.file
NAME, DEPENDENCY, FILE = 1, 3, 1


def package_root() -> Path:
    """Returns the folder that xds-protos is installed in, found by a package that nothing else ships."""
    spec = importlib.util.find_spec("validate")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("describe_xds: xds-protos is not installed")
    return Path(spec.submodule_search_locations[0]).resolve().parent


def serialized_file(root: Path, proto: str) -> bytes:
    """Returns the serialized FileDescriptorProto of `proto`, taken from its generated module's source."""
    module = root / (proto.removesuffix(".proto").replace("-", "_") + "_pb2.py")
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile":
            (argument,) = node.args
            if isinstance(argument, ast.Constant) and isinstance(argument.value, bytes):
                return argument.value
    sys.exit(f"describe_xds: no descriptor in {module}")


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def strings(data: bytes, field: int) -> Iterator[str]:
    """Yields the values of one length-delimited field; a FileDescriptorProto has only varints beside those."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        size, at = varint(data, at)
        if key & 7 == 2:
            if key >> 3 == field:
                yield data[at : at + size].decode()
            at += size


def encode_length(size: int) -> bytes:
    out = bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def descriptor_set(root: Path, roots: tuple[str, ...]) -> bytes:
    """Returns a FileDescriptorSet of the roots and all they import, each file after its imports."""
    files: dict[str, bytes] = {}
    open_files: set[str] = set()

    def visit(proto: str) -> None:
        if proto in files or proto in open_files or proto.startswith(RUNTIME_PREFIX):
            return
        open_files.add(proto)
        data = serialized_file(root, proto)
        for dependency in strings(data, DEPENDENCY):
            visit(dependency)
        files[proto] = data

    for proto in roots:
        visit(proto)
    return b"".join(bytes([FILE << 3 | 2]) + encode_length(len(data)) + data for data in files.values())


def main() -> None:
    (target,) = sys.argv[1:]
    Path(target).write_bytes(descriptor_set(package_root(), ROOTS))


if __name__ == "__main__":
    main()
