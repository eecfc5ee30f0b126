"""The control line by itself: a child without the kernel's help still dies with its parent."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import pytest

from libs.serving.control import FD_VARIABLE, Control
from libs.serving.testing import STOP_S, python_path

_CHILD = """
import os, sys, time
from libs.serving.control import Control, FD_VARIABLE
control = Control.from_environment()
assert FD_VARIABLE not in os.environ
control.listen(lambda: control.send({"drained": True}))
control.send({"started": True})
time.sleep(60)
"""


def test_words_both_ways_and_the_parents_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            pass_fds=(theirs.fileno(),),
            env={"PYTHONPATH": python_path(), FD_VARIABLE: str(theirs.fileno())},
        )
    try:
        with ours:
            ours.settimeout(STOP_S)
            lines = ours.makefile("rb")
            assert json.loads(lines.readline()) == {"started": True}
            ours.sendall(b'{"command": "something newer"}\n{"command": "drain"}\n')
            assert json.loads(lines.readline()) == {"drained": True}
            assert child.poll() is None
            lines.close()
        assert child.wait(STOP_S) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()


def test_a_process_that_nobody_supervises_has_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FD_VARIABLE, raising=False)
    assert Control.from_environment() is None
