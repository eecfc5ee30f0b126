from __future__ import annotations

import io
import itertools
import time

import pytest

from services.tf_serving.config.progress import Steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_step_is_a_line_with_its_seconds() -> None:
    out = io.StringIO()
    steps = Steps(out, itertools.count(0.0, 1.5).__next__)
    with steps.step("first"):
        pass
    with pytest.raises(ValueError), steps.step("second"):
        raise ValueError
    assert out.getvalue() == "   1.5 s  first\n"


def test_on_a_terminal_the_line_counts() -> None:
    out = Terminal()
    with Steps(out).step("long"):
        end = time.monotonic() + 20
        while "long ..." not in out.getvalue():
            assert time.monotonic() < end
            time.sleep(0.01)
    assert out.getvalue().endswith("s  long\n") and "\r\x1b[K" in out.getvalue()
