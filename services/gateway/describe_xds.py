"""Build step: collects the part of Envoy's API that the gateway speaks into one FileDescriptorSet.

    python services/gateway/describe_xds.py 3rdparty/xds/xds.lock services/gateway/xds.binpb

The xds-protos package holds each file's serialized FileDescriptorProto inside a generated Python module. Its archive is
fetched by hash and read, not installed: 3rdparty/xds/requirements.txt says why.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOTS = (
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/config/trace/v3/opentelemetry.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/access_loggers/filters/cel/v3/cel.proto",
    "envoy/extensions/access_loggers/stream/v3/stream.proto",
    "envoy/extensions/common/matching/v3/extension_matcher.proto",
    "envoy/extensions/filters/common/matcher/action/v3/skip_action.proto",
    "envoy/extensions/filters/http/api_key_auth/v3/api_key_auth.proto",
    "envoy/extensions/filters/http/buffer/v3/buffer.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/grpc_json_transcoder/v3/transcoder.proto",
    "envoy/extensions/filters/http/grpc_web/v3/grpc_web.proto",
    "envoy/extensions/filters/http/jwt_authn/v3/config.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/lua/v3/lua.proto",
    "envoy/extensions/filters/http/dynamic_modules/v3/dynamic_modules.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
    "envoy/extensions/matching/common_inputs/network/v3/network_inputs.proto",
    "envoy/extensions/request_id/uuid/v3/uuid.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.proto",
    "envoy/extensions/tracers/opentelemetry/samplers/v3/parent_based_sampler.proto",
    "envoy/extensions/tracers/opentelemetry/samplers/v3/trace_id_ratio_based_sampler.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/load_stats/v3/lrs.proto",
    "envoy/service/runtime/v3/rtds.proto",
    "envoy/type/matcher/v3/http_inputs.proto",
)
# Protobuf's own files come with the protobuf package at run time.
RUNTIME_PREFIX = "google/protobuf/"
# descriptor.proto: FileDescriptorProto.name, .dependency; FileDescriptorSet.file
NAME, DEPENDENCY, FILE = 1, 3, 1


FETCH_TIMEOUT_S = 300


def fetch(lock: Path, folder: Path) -> zipfile.ZipFile:
    """Downloads the wheel that `lock` names and opens it; pip checks the hash and follows its own configuration."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
    options = ["--require-hashes", "--only-binary=:all:", "--dest", str(folder), "--requirement", str(lock)]
    subprocess.run([*pip, *options], check=True, timeout=FETCH_TIMEOUT_S)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


def serialized_file(wheel: zipfile.ZipFile, proto: str) -> bytes:
    """Returns the serialized FileDescriptorProto of `proto`, taken from its generated module's source."""
    module = proto.removesuffix(".proto").replace("-", "_") + "_pb2.py"
    for node in ast.walk(ast.parse(wheel.read(module))):
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


def descriptor_set(wheel: zipfile.ZipFile, roots: tuple[str, ...]) -> bytes:
    """Returns a FileDescriptorSet of the roots and all they import, each file after its imports."""
    files: dict[str, bytes] = {}
    open_files: set[str] = set()

    def visit(proto: str) -> None:
        if proto in files or proto in open_files or proto.startswith(RUNTIME_PREFIX):
            return
        open_files.add(proto)
        data = serialized_file(wheel, proto)
        for dependency in strings(data, DEPENDENCY):
            visit(dependency)
        files[proto] = data

    for proto in roots:
        visit(proto)
    return b"".join(bytes([FILE << 3 | 2]) + encode_length(len(data)) + data for data in files.values())


def main() -> None:
    lock, target = (Path(argument) for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder, fetch(lock, Path(folder)) as wheel:
        target.write_bytes(descriptor_set(wheel, ROOTS))


if __name__ == "__main__":
    main()
