from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.gateway.status_command import fetch, lines
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


def test_calls_that_failed_for_different_reasons_are_different() -> None:
    one, other = (replace(FAILED, message="", details=details) for details in ("dl_no_task", "cors_response"))
    text = "\n".join(lines(document(view(failures=[one, other, one])), colours=False))
    assert re.search(r"  2 x .* dl_no_task\n  1 x .* cors_response", text)


@contextlib.contextmanager
def _says(answer: bytes) -> Iterator[str]:
    """A port that answers everybody the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


def test_whatever_answers_at_the_admin_address_is_told_from_a_gateway() -> None:
    for answer in (b"\0\0\x18\4\0\0\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", b""):
        with _says(answer) as address, pytest.raises(OSError):
            fetch(address)
    for address in ("127.0.0.1:abc", "", "a b"):
        with pytest.raises(OSError):
            fetch(address)


def test_the_admin_address_may_be_copied_from_a_browser() -> None:
    body = b'{"tasks": {}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    with _says(head + body) as address:
        assert fetch(f"http://{address}/") == {"tasks": {}}
