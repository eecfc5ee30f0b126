"""Writes docs/protocol.md, the protocol reference, out of the .proto files and their comments.

    python -m docs.tools.protocol_reference          # in the repository root; needs grpcio-tools

A test compares the page with the files, so one that is stale does not pass.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from libs.proto.bundle.make_bundle import ENTRY, protos

PAGE = Path("docs/protocol.md")

INTRODUCTION = """\
# Protocol reference

<!-- Written by `python -m docs.tools.protocol_reference` out of libs/proto/*.proto; edit those. -->

The services and messages that callers use, with the comments of the `.proto` files. `./pants package libs/proto::` puts
these files into `dist/dl-inference-protos.zip` for any language; [Call it](calling.md) shows how they are used, and
[Troubleshooting](troubleshooting.md) what the status codes mean.

Besides its own service the gateway takes the backends' methods under their own names, and on the same port
`grpc.health.v1.Health` and server reflection.
"""

# The numbers of fields in descriptor.proto, by which source information names what a comment belongs to.
_FILE_MESSAGES, _FILE_ENUMS, _FILE_SERVICES, _FILE_SYNTAX = 4, 5, 6, 12
_MESSAGE_FIELDS, _MESSAGE_NESTED, _MESSAGE_ENUMS = 2, 3, 4
_MEMBERS = 2  # of an enum its values, of a service its methods

Place = tuple[int, ...]


class NotWrittenError(RuntimeError):
    """The page cannot be written: protoc refused the files, or two headings would have one address."""


@dataclass(frozen=True)
class Names:
    """Short names of the reference's own types by their full names (`.tensorflow.TensorProto`), for links."""

    short: Mapping[str, str]

    def link(self, full: str) -> str:
        if full not in self.short:
            return f"`{full.lstrip('.')}`"
        return f"[`{self.short[full]}`](#{slug(self.short[full])})"


def slug(heading: str) -> str:
    """The address that both MkDocs and code hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-")


def describe(root: Path) -> list[FileDescriptorProto]:
    """The descriptors of the callers' .proto files with their comments, the gateway's own first."""
    protoc: Any = importlib.import_module("grpc_tools.protoc")
    well_known = Path(*importlib.import_module("grpc_tools").__path__) / "_proto"
    names = protos(root)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "set")
        options = ["--include_source_info", f"--descriptor_set_out={out}"]
        folders = [f"--proto_path={root}", f"--proto_path={well_known}"]
        if protoc.main(["protoc", *folders, *options, *names]) != 0:
            raise NotWrittenError("protoc failed; its messages are above")
        files = FileDescriptorSet.FromString(out.read_bytes()).file
    return sorted(files, key=lambda file: (file.name != ENTRY, names.index(file.name)))


def reference(files: Sequence[FileDescriptorProto]) -> str:
    """The page."""
    names = Names(dict(_all_types(files)))
    parts = [INTRODUCTION]
    for file in files:
        parts += _file(file, names)
    page = "\n".join(parts).rstrip() + "\n"
    headings = [slug(line.lstrip("#").strip()) for line in page.splitlines() if line.startswith("##")]
    if twice := {heading for heading in headings if headings.count(heading) > 1}:
        raise NotWrittenError(f"headings of one address: {sorted(twice)}")
    return page


def _all_types(files: Iterable[FileDescriptorProto]) -> Iterator[tuple[str, str]]:
    for file in files:
        for message, short, _ in _messages(file):
            yield f".{file.package}.{short}", short
            yield from (
                (f".{file.package}.{short}.{enum.name}", f"{short}.{enum.name}") for enum in message.enum_type
            )
        yield from ((f".{file.package}.{enum.name}", enum.name) for enum in file.enum_type)


def _messages(file: FileDescriptorProto) -> Iterator[tuple[DescriptorProto, str, Place]]:
    """Every message with its name inside the package and its path, nested ones behind their own; no map entries."""

    def walk(messages: Iterable[DescriptorProto], prefix: str, path: Place) -> Iterator[Any]:
        for number, message in enumerate(messages):
            if not message.options.map_entry:
                yield message, prefix + message.name, (*path, number)
                nested = (*path, number, _MESSAGE_NESTED)
                yield from walk(message.nested_type, f"{prefix}{message.name}.", nested)

    yield from walk(file.message_type, "", (_FILE_MESSAGES,))


def _file(file: FileDescriptorProto, names: Names) -> Iterator[str]:
    comments = {tuple(place.path): place for place in file.source_code_info.location}

    def comment(*path: int) -> str:
        place = comments.get(path)
        return "" if place is None else _text(place.leading_comments, place.trailing_comments)

    yield f"## {file.package}\n\n`{file.name}`\n\n{comment(_FILE_SYNTAX)}\n"
    for number, service in enumerate(file.service):
        at: Place = (_FILE_SERVICES, number)
        yield f"### {service.name}\n\nService `{file.package}.{service.name}`. {comment(*at)}".rstrip() + "\n"
        yield "| method | takes | answers | |\n|---|---|---|---|"
        for index, method in enumerate(service.method):
            takes = ("stream of " if method.client_streaming else "") + names.link(method.input_type)
            answers = ("stream of " if method.server_streaming else "") + names.link(method.output_type)
            yield f"| `{method.name}` | {takes} | {answers} | {_cell(comment(*at, _MEMBERS, index))} |"
        yield ""
    for message, short, at in _messages(file):
        yield f"### {short}\n\n{comment(*at)}".rstrip() + "\n"
        yield from _fields(
            message, [comment(*at, _MESSAGE_FIELDS, i) for i in range(len(message.field))], names
        )
        for number, enum in enumerate(message.enum_type):
            yield from _enum(enum, f"{short}.{enum.name}", (*at, _MESSAGE_ENUMS, number), comment)
    for number, enum in enumerate(file.enum_type):
        yield from _enum(enum, enum.name, (_FILE_ENUMS, number), comment)


def _fields(message: DescriptorProto, comments: Sequence[str], names: Names) -> Iterator[str]:
    if not message.field:
        yield "No fields.\n"
        return
    yield "| field | number | type | |\n|---|---:|---|---|"
    for field, comment in zip(message.field, comments, strict=True):
        choice = ""
        if field.HasField("oneof_index") and not field.proto3_optional:
            choice = f"One of `{message.oneof_decl[field.oneof_index].name}`. "
        cell = _cell(choice + comment)
        yield f"| `{field.name}` | {field.number} | {_type(field, message, names)} | {cell} |"
    yield ""


def _type(field: FieldDescriptorProto, message: DescriptorProto, names: Names) -> str:
    for entry in message.nested_type:
        if entry.options.map_entry and field.type_name.endswith(f".{message.name}.{entry.name}"):
            key, value = entry.field
            return f"map of {_scalar(key, names)} to {_scalar(value, names)}"
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    before = "repeated " if repeated else "optional " if field.proto3_optional else ""
    return before + _scalar(field, names)


def _scalar(field: FieldDescriptorProto, names: Names) -> str:
    if field.type_name:
        return names.link(field.type_name)
    return f"`{FieldDescriptorProto.Type.Name(field.type).removeprefix('TYPE_').lower()}`"


def _enum(enum: Any, short: str, at: Place, comment: Any) -> Iterator[str]:
    yield f"### {short}\n\n{comment(*at)}".rstrip() + "\n"
    yield "| value | number | |\n|---|---:|---|"
    for index, value in enumerate(enum.value):
        yield f"| `{value.name}` | {value.number} | {_cell(comment(*at, _MEMBERS, index))} |"
    yield ""


def _text(*comments: str) -> str:
    """Comments as paragraphs, with what Markdown would take for markup escaped."""
    lines = "\n\n".join(part.strip() for part in comments if part.strip()).splitlines()
    text = "\n".join(line.strip() for line in lines)
    return re.sub(r"(?<!`)<(?![^`\n]*`)", "&lt;", text).replace("*", r"\*")


def _cell(text: str) -> str:
    """A comment as the cell of a table."""
    return " ".join(text.split()).replace("|", r"\|")


def main() -> int:
    """Command line; returns the exit status."""
    PAGE.write_text(reference(describe(Path.cwd())), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
