from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from docs.tools.protocol_reference import NotWrittenError, describe, reference
from libs.proto.bundle.make_bundle import ENTRY

ROOT = Path(__file__).absolute().parents[2]

PROTO = """\
// About the <file>.
syntax = "proto3";
package libs.a;

// One | two *three*.
message Outer {
  message Inner { bytes raw = 1; }
  oneof choice {
    Inner inner = 1;   // inside
    string text = 2;
  }
  map<string, Inner> by_name = 3;
  repeated int64 sizes = 4;
  optional bool maybe = 5;
  Kind kind = 6;
}
enum Kind {
  NONE = 0;  // nothing
}
message Empty {}
service Caller {
  // Calls.
  rpc Call(stream Outer) returns (Empty);
}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    root = tmp_path_factory.mktemp("root")
    path = root / ENTRY
    path.parent.mkdir(parents=True)
    path.write_text(PROTO)
    return describe(root)


def test_page_is_fresh() -> None:
    page = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    assert page == reference(describe(ROOT)), "stale: python -m docs.tools.protocol_reference"


def test_what_a_page_says(files: list[FileDescriptorProto]) -> None:
    page = reference(files)
    for line in (
        "About the &lt;file>.",
        "One | two \\*three\\*.",
        "### Outer.Inner",
        "| `inner` | 1 | [`Outer.Inner`](#outerinner) | One of `choice`. inside |",
        "| `text` | 2 | `string` | One of `choice`. |",
        "| `by_name` | 3 | map of `string` to [`Outer.Inner`](#outerinner) |  |",
        "| `sizes` | 4 | repeated `int64` |  |",
        "| `maybe` | 5 | optional `bool` |  |",
        "| `kind` | 6 | [`Kind`](#kind) |  |",
        "| `NONE` | 0 | nothing |",
        "| `Call` | stream of [`Outer`](#outer) | [`Empty`](#empty) | Calls. |",
        "No fields.",
    ):
        assert line in page.splitlines(), line


def test_two_headings_of_one_address_are_refused(files: list[FileDescriptorProto]) -> None:
    with pytest.raises(NotWrittenError, match="kind"):
        reference([*files, FileDescriptorProto(package="other", enum_type=files[0].enum_type)])


def test_file_that_protoc_refuses(tmp_path: Path) -> None:
    path = tmp_path / ENTRY
    path.parent.mkdir(parents=True)
    path.write_text('syntax = "proto3"; message {')
    with pytest.raises(NotWrittenError):
        describe(tmp_path)
