from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from libs.serving.errors import Internal, InvalidArgument, ResourceExhausted
from services.torch_worker.model.failures import FailureLog, failure, is_out_of_memory, place_in

HOOK = """
def deep(x):
    raise x

def preprocess(x, **kwargs):
    deep(x)
"""


def caught(folder: Path, error: BaseException) -> BaseException:
    file = folder / "helper.py"
    file.write_text(dedent(HOOK))
    spec = importlib.util.spec_from_file_location("helper", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(type(error)) as info:
        module.preprocess(error)
    return info.value


class Later:
    """A clock that stands, and the action that was put off."""

    def __init__(self) -> None:
        self.now = 0.0
        self.actions: list[Callable[[], None]] = []

    def clock(self) -> float:
        return self.now

    def __call__(self, seconds: float, action: Callable[[], None]) -> None:
        self.actions.append(action)


def test_places_and_codes_of_failures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(stage: str, error: BaseException) -> Any:
        return failure(stage, caught(tmp_path, error), tmp_path)

    assert place_in(tmp_path, caught(tmp_path, KeyError("k"))) == "helper.py line 3"
    bad = fail("preprocess", ValueError("too short"))
    assert isinstance(bad, InvalidArgument)
    assert bad.message == "preprocess raised ValueError: too short (helper.py line 3)"
    assert isinstance(fail("preprocess_batch", ValueError("too short")), InvalidArgument)
    other = fail("preprocess", KeyError("k"))
    assert isinstance(other, Internal)
    assert other.message == "preprocess raised KeyError: 'k' (helper.py line 3)"
    assert "Traceback" in caplog.text and "helper.py" in caplog.text
    assert isinstance(fail("postprocess", ValueError("v")), Internal)
    assert isinstance(fail("run_model", MemoryError()), ResourceExhausted)
    mine = InvalidArgument("as it is")
    assert failure("postprocess", mine, tmp_path) is mine


def test_no_place_outside_the_folder(tmp_path: Path) -> None:
    try:
        int("x")
    except ValueError as error:
        assert place_in(tmp_path, error) is None
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    assert place_in(tmp_path / "a", caught(tmp_path / "ab", KeyError())) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
            ),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_known(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torchs_cpu_allocator_says_so() -> None:
    with pytest.raises(RuntimeError) as caught_error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught_error.value)


def test_ten_thousand_failures_of_a_place_are_one_traceback_and_a_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = Later()
    failures = FailureLog(later.clock, later)
    error = caught(tmp_path, KeyError("k"))
    for _ in range(10_000):
        failure("preprocess", error, tmp_path, failures=failures)
    failure("postprocess", error, tmp_path, failures=failures)
    assert len(later.actions) == 1
    assert [r.exc_info is not None for r in caplog.records] == [True, True]
    later.actions.pop()()
    assert len(caplog.records) == 3
    assert caplog.messages[2] == (
        "9999 more within 10 s, the last: preprocess raised KeyError: 'k' (helper.py line 3)"
    )
    failures.flush()
    assert len(caplog.records) == 3, "nothing new, nothing said"


def test_a_place_that_was_quiet_for_long_is_told_in_full_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = Later()
    failures = FailureLog(later.clock, later)
    error = caught(tmp_path, KeyError("k"))
    for at in (0.0, 300.0, 1200.0):
        later.now = at
        failure("preprocess", error, tmp_path, failures=failures)
    assert [r.exc_info is not None for r in caplog.records] == [True, True]


def test_places_do_not_pile_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    later = Later()
    failures = FailureLog(later.clock, later)
    for n in range(1000):
        failures.report((str(n),), "text", KeyError(n), logging.ERROR)
    assert len(failures._places) == 256
