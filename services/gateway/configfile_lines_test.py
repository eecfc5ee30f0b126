from __future__ import annotations

import tomllib

import pytest

from services.gateway.configfile_lines import Keys, Lines

DOCUMENT = '''\
# a comment with [brackets] and = signs
nodes = "a # b.txt"   # 2

[defaults]            # 4
timeout_ms = 100
"quoted \\u0041" = 1.5 # 6
tls.ca = 'x'          # 7: a dotted key

[tasks.69]            # 9
endpoints = [         # 10
  "10.0.0.1:1",       # 11: a comment, with a comma ]
  { address = "b:1", weight = 3 }, # 12
]
text = """            # 14
"still" the = [string]
end"""
date = 1979-05-27T07:32:00Z # 17

[[many]]              # 19
a = 1
[many.b]              # 21
c = \'\'\'
x\'\'\'
[[many]]              # 24
a = { b = { c = [[1], [
  2]] } }             # 26
[[same.same]]         # 27
[[same.same]]         # 28
'''


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("nodes",), 2),
        (("defaults",), 4),
        (("defaults", "timeout_ms"), 5),
        (("defaults", "quoted A"), 6),
        (("defaults", "tls", "ca"), 7),
        (("tasks",), 9),
        (("tasks", "69", "endpoints"), 10),
        (("tasks", "69", "endpoints", 0), 11),
        (("tasks", "69", "endpoints", 1, "weight"), 12),
        (("tasks", "69", "text"), 14),
        (("tasks", "69", "date"), 17),
        (("many", 0, "a"), 20),
        (("many", 0, "b", "c"), 22),
        (("many", 1, "a", "b", "c", 1, 0), 26),
        (("same", "same", 1), 28),
        (("tasks", "69", "absent"), 9),
        (("absent",), 0),
    ],
)
def test_every_key_has_its_line(keys: Keys, line: int) -> None:
    assert Lines(DOCUMENT).of(keys) == line


def test_every_key_that_tomllib_finds_is_found() -> None:
    lines = Lines(DOCUMENT)

    def walk(value: object, keys: Keys) -> None:
        assert not keys or lines.of(keys) >= lines.of(keys[:-1]) > 0 or len(keys) == 1
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, (*keys, key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                walk(inner, (*keys, index))

    walk(tomllib.loads(DOCUMENT), ())


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# only this", "a = 1", 'a = ""', 'a = """"""', "a = ''", "a={}"]
)
def test_small_documents(text: str) -> None:
    assert Lines(text).of(("a",)) == (1 if "a" in tomllib.loads(text) else 0)
