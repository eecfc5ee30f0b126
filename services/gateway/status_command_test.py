from __future__ import annotations

import re
from dataclasses import replace

from services.gateway.status_command import lines
from services.gateway.testing_status import FAILED, document, task_counts, view


def test_columns_are_aligned_and_without_colours_by_default() -> None:
    text = list(lines(document(view({"69": task_counts(90, 10)})), colours=False))
    head = next(line for line in text if line.startswith("TASK"))
    rows = text[text.index(head) + 1 :][:5]
    assert [row.split()[0] for row in rows] == ["69", "10.0.0.1:8500", "10.0.0.2:8500", "10.0.0.3:8500", "70"]
    assert all(row[head.index("STATE") - 1] == " " != row[head.index("STATE")] for row in rows)
    assert rows[0].index("10.0 %") + len("10.0 %") == head.index("ERRORS") + len("ERRORS")
    assert "\x1b" not in "\n".join(text)


def test_colours_change_nothing_else() -> None:
    given = document(view({"69": task_counts(90, 10)}, failures=[FAILED]))
    plain, coloured = list(lines(given, colours=False)), list(lines(given, colours=True))
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in coloured] == [
        line.rstrip() for line in plain
    ]
    assert coloured != plain


def test_callers_cannot_steer_the_terminal() -> None:
    call = replace(FAILED, message="\x1b[2J\rgone\n", task="\x07")
    text = "\n".join(lines(document(view(failures=[call])), colours=False))
    assert "\x1b" not in text
    assert "\r" not in text
    assert "?[2J?gone?" in text
