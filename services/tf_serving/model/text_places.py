"""Where the fields of a message in protobuf's text format stand: for errors that name the line.

google.protobuf's parser says the line of what it cannot read, and of what it could read nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import pairwise

_TOKEN = re.compile(
    r"""\#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[A-Za-z_]\w*|[{}<>]|[^\s\w{}<>"'#]|[\w.+-]+"""
)
_OPENING = ("{", "<")
_CLOSING = ("}", ">")


def places(text: str, repeated: Collection[str]) -> dict[str, int]:
    """Lines, from 1, by field, `model_config_list.config[1].name`; of a field that is given again the first counts.

    Args:
        text: what the parser accepts.
        repeated: names of fields that are written with an index.
    """
    tokens = [(m.group(), m.start()) for m in _TOKEN.finditer(text) if not m.group().startswith("#")]
    found: dict[str, int] = {}
    stack: list[str] = [""]
    counts: dict[str, int] = {}
    path, line, seen = "", 1, 0
    for (token, start), (after, _) in pairwise([*tokens, ("", 0)]):
        line, seen = line + text.count("\n", seen, start), start
        if token in _OPENING:
            stack.append(path)
        elif token in _CLOSING:
            stack.pop()
        elif (token[0].isalpha() or token[0] == "_") and (after == ":" or after in _OPENING):
            path = f"{stack[-1]}.{token}" if stack[-1] else token
            if token in repeated:
                counts[path] = counts.get(path, -1) + 1
                path = f"{path}[{counts[path]}]"
            found.setdefault(path, line)
    return found
