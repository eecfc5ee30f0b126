"""Command-line options that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from loadtests.scenarios import SCENARIOS


def add_traffic(parser: argparse.ArgumentParser) -> None:
    """What is called."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--scenario", choices=list(SCENARIOS), nargs="+", help="some of them, equally often [all]"
    )
    what.add_argument("--mix", type=Path, help="a file of `scenario = weight` lines")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("var/models"),
        help="example models, for their samples [%(default)s]",
    )
    parser.add_argument(
        "--timeout", type=float, default=5.0, help="deadline of a call, seconds [%(default)g]"
    )
    parser.add_argument(
        "--rate",
        type=float,
        help="open loop: calls a second, all users together; else users wait for their answers",
    )
    parser.add_argument("--users", type=int, default=8, help="each with a connection [%(default)s]")


def address(text: str) -> str:
    """host:port."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no host:port")
    return text


def host_port(text: str) -> tuple[str, int]:
    host, _, port = address(text).rpartition(":")
    return host, int(port)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        left = (0, 1, len(head) - 1)
        return "  ".join(
            c.ljust(w) if i in left else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )

    print(line(head).rstrip())
    print("  ".join("-" * width for width in widths))
    for row in rows:
        print(line(row).rstrip(), flush=True)
