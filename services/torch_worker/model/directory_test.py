from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from services.torch_worker.model.directory import enter_directory, own_directory, working_directory


def on_a_thread(action: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not errors and not thread.is_alive(), errors


def test_a_thread_of_a_version_is_in_its_folder_or_leaves_all_where_they_are(tmp_path: Path) -> None:
    before = os.getcwd()

    def work() -> None:
        if own_directory(tmp_path):
            assert os.getcwd() == str(tmp_path)
            assert own_directory(tmp_path.parent) and os.getcwd() == str(tmp_path.parent)
        else:  # a container that forbids it
            assert os.getcwd() == before

    on_a_thread(work)
    assert os.getcwd() == before


def test_the_main_thread_keeps_the_processs_directory(tmp_path: Path) -> None:
    before = os.getcwd()
    assert not own_directory(tmp_path)
    assert os.getcwd() == before


def test_a_while_in_a_folder(tmp_path: Path) -> None:
    before = os.getcwd()

    def work() -> None:
        with working_directory(tmp_path):
            (tmp_path / "x").write_text("found")
            assert Path("x").read_text() == "found"
        assert os.getcwd() == before

    work()
    on_a_thread(work)
    assert os.getcwd() == before


def test_the_process_enters_a_folder(tmp_path: Path) -> None:
    before = os.getcwd()
    try:
        enter_directory(tmp_path)
        seen: list[str] = []
        on_a_thread(lambda: seen.append(os.getcwd()))
        assert seen == [str(tmp_path)] == [os.getcwd()]
    finally:
        os.chdir(before)
