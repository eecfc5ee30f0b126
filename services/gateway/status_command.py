"""`gateway status`: the status page of a running gateway in the terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO
from urllib.parse import quote

from services.gateway.status_words import ms, number, percent, span

Json = dict[str, Any]

HEALTHY, DEGRADED, UNREACHABLE = 0, 1, 2

_TIMEOUT_S = 10.0
_PAUSE_S = 2.0  # of --watch
_FEW = 6  # tasks or fewer show their instances at once
_ROWS = 40  # tasks, unless all are asked for
_FAILED = 10

# Imports of what it draws with are in the functions: the command that serves loads this module, and not them.

_EPILOG = """\
examples:
  gateway status                            what runs on this machine, tasks in trouble first
  gateway status --watch                    the same, again every two seconds, until Ctrl-C
  gateway status --task 69                  one task with all of its instances
  gateway status --admin 10.0.0.5:9901      a gateway elsewhere, whose --admin port you can reach
  gateway status --json | jq '.tasks["69"].last_10s'

exit status, for scripts and probes:
  0  every task is well
  1  the gateway answers, but is not ready, or a task is in trouble, or the configuration has an error
  2  it does not answer

states of a task:
  no instance  none of its host names has an address
  down         no instance passes its health check
  failing      half of its calls or more failed in the last ten seconds, not counting what its callers did wrong
  errors       one call in a hundred or more
  degraded     some of its instances are down or ejected
"""

_COLOURS = {"bad": "31", "warn": "33", "good": "32", "dim": "2", "bold": "1"}
_MOODS = {
    "no instance": "bad",
    "down": "bad",
    "failing": "bad",
    "errors": "warn",
    "degraded": "warn",
    "": "good",
}


def add_parser(commands: Any) -> None:
    """Adds the command to an argparse parser's subcommands."""
    parser = commands.add_parser(
        "status",
        help="how a running gateway does: tasks, instances, rates, errors",
        description="How a running gateway does, in the terminal.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--admin",
        default="127.0.0.1:9901",
        metavar="HOST:PORT",
        help="the gateway's --admin address (default 127.0.0.1:9901)",
    )
    parser.add_argument("--task", metavar="ID", help="only this task, with its instances")
    parser.add_argument("--all", action="store_true", help=f"every task, not only the first {_ROWS}")
    parser.add_argument("--json", action="store_true", help="the whole document, for programs")
    parser.add_argument("--watch", action="store_true", help="again every two seconds, until Ctrl-C")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, out: TextIO | None = None) -> int:
    """The exit status. Writes to `out`, standard output unless given."""
    out = out or sys.stdout
    colours = out.isatty() and not os.environ.get("NO_COLOR")
    status = UNREACHABLE
    try:
        while True:
            status, text = _look(args, colours)
            if args.watch and out.isatty():
                out.write("\x1b[H\x1b[2J")
            out.write(text)
            out.flush()
            if not args.watch:
                return status
            time.sleep(_PAUSE_S)
    except KeyboardInterrupt:
        return status
    except BrokenPipeError:  # the reader, like head, has seen enough; nor is there more to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status


def _look(args: argparse.Namespace, colours: bool) -> tuple[int, str]:
    try:
        document = fetch(args.admin, args.task)
    except OSError as error:
        reason = getattr(error, "reason", error)
        return UNREACHABLE, (
            f"gateway: no answer from {_base(args.admin)}/status.json: {reason}\n"
            "is it running, and is this what it was given as --admin?\n"
        )
    if args.task is not None and not document["tasks"]:
        return DEGRADED, f"gateway: task {args.task} is not in the configuration of this gateway\n"
    status = HEALTHY if document["health"] == "healthy" else DEGRADED
    if args.json:
        return status, json.dumps(document, indent=1) + "\n"
    return status, "\n".join(lines(document, colours=colours, every=args.all)) + "\n"


def fetch(admin: str, task: str | None = None) -> Json:
    """The status document. Raises OSError when there is no gateway's answer."""
    import urllib.request
    from http.client import HTTPException

    query = "" if task is None else f"?task={quote(task)}"
    # No proxy: the admin port is on this machine or in the operators' network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{_base(admin)}/status.json{query}", timeout=_TIMEOUT_S) as reply:
            document: Json = json.load(reply)
    except (ValueError, HTTPException) as error:  # also what is no URL, and what does not speak HTTP
        raise OSError(f"not a gateway's admin port: {type(error).__name__}") from None
    if not isinstance(document, dict) or "tasks" not in document:
        raise OSError("not a gateway's admin port")
    return document


def _base(admin: str) -> str:
    """The admin address, given as HOST:PORT or copied from a browser."""
    return (admin if "://" in admin else f"http://{admin}").rstrip("/")


def lines(document: Json, *, colours: bool, every: bool = False) -> Iterator[str]:
    """The document as text, line by line."""
    from services.gateway.status_page import Choice, found

    paint = _Paint(colours)
    gateway, config, total = document["gateway"], document["config"], document["total"]["last_10s"]
    yield (
        f"gateway {paint('bold', _plain(gateway['listen']))}"
        f"  {paint('good' if gateway['ready'] else 'bad', _plain(gateway['state']))}"
        f"  up {span(gateway['uptime_s'])}  Envoy {gateway['envoy_version']}{'' if gateway['envoy_pid'] else ' down'},"
        f" {gateway['envoy_restarts']} restarts"
    )
    yield (
        f"configuration {config['version']}: {_plain(', '.join(config['sources']))}"
        + ("" if config["accepted"] else ", on its way to Envoy")
        + (f", {config['rejected']} edits rejected" if config["rejected"] else "")
    )
    yield (
        f"{number(total['rate'])} requests/s  {percent(total['error_ratio'])} errors  p50 {ms(total['p50_ms'])}"
        f"  p99 {ms(total['p99_ms'])}  {gateway['in_flight']} in flight  {gateway['connections']} connections"
    )
    for problem in document["problems"]:
        yield paint("bad", f"! {_plain(problem)}")
    yield ""
    names = found(document, Choice())
    drawn = names if every else names[:_ROWS]
    yield from _table(_rows(document, drawn, paint), paint)
    if len(drawn) < len(names):
        yield paint(
            "dim", f"and {len(names) - len(drawn)} more, less troubled and less busy: --all, or --task ID"
        )
    yield from _failed(document["failed_calls"], document["time"], paint)


_HEAD = ("TASK", "STATE", "REQ/S", "ERRORS", "P50", "P99", "IN FLIGHT", "WEIGHT")
_TEXT_COLUMNS = 2  # the first ones; the others are numbers

Row = list[tuple[str, str]]  # cells: text, and mood or ""


def _rows(document: Json, names: Sequence[str], paint: _Paint) -> Iterator[Row]:
    for name in names:
        task = document["tasks"][name]
        instances = [(pool, instance) for pool in task["pools"] for instance in pool["instances"]]
        up = sum(instance["health"] == "healthy" for _, instance in instances)
        short = task["last_10s"]
        yield [
            (_plain(name), "bold"),
            (f"{task['trouble'] or 'well'} {up}/{len(instances)}", _MOODS[task["trouble"]]),
            (number(short["rate"]), ""),
            (percent(short["error_ratio"]), "bad" if short["error_ratio"] >= 0.01 else ""),
            (ms(short["p50_ms"]), ""),
            (ms(short["p99_ms"]), ""),
            (str(sum(instance["in_flight"] for _, instance in instances)), ""),
            ("", ""),
        ]
        if task["trouble"] or len(names) <= _FEW:
            for pool, instance in instances:
                yield _instance(pool, instance)


def _instance(pool: Json, instance: Json) -> Row:
    role = "" if pool["role"] == "main" else f" {pool['role']}"
    stands_in = " fallback" if instance["from"] else ""
    well = instance["health"] == "healthy"
    return [
        (f"  {_plain(instance['address'])}{role}{stands_in}", "dim"),
        (_plain(instance["health"]), "dim" if well else "bad"),
        (number(instance["rate"]), "dim"),
        (percent(instance["error_ratio"]), "bad" if instance["error_ratio"] >= 0.01 else "dim"),
        (ms(instance["mean_ms"]), "dim"),
        ("", ""),
        (str(instance["in_flight"]), "dim"),
        (str(instance["weight"]), "warn" if instance["weight"] < instance["full_weight"] else "dim"),
    ]


def _table(rows: Iterator[Row], paint: _Paint) -> Iterator[str]:
    all_rows: list[Row] = [[(text, "dim") for text in _HEAD], *rows]
    widths = [max(len(row[n][0]) for row in all_rows) for n in range(len(_HEAD))]
    for row in all_rows:
        cells = [
            paint(mood, text.ljust(width) if n < _TEXT_COLUMNS else text.rjust(width))
            for n, ((text, mood), width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _failed(calls: Sequence[Json], now: float, paint: _Paint) -> Iterator[str]:
    alike: dict[tuple[str, ...], list[Json]] = {}
    for call in calls:
        told = call["message"] or call["details"]
        alike.setdefault((call["task"], call["status"], call["instance"], told), []).append(call)
    if alike:
        yield ""
        yield paint("dim", f"the last {len(calls)} failed calls")
    for (*_, told), group in list(alike.items())[:_FAILED]:
        call = group[0]
        where = f" at {call['instance']}" if call["instance"] else ""
        yield (
            f"{len(group):>3} x  {span(now - call['time'])} ago  task {_plain(call['task']) or '-'}{_plain(where)}"
            f"  {paint('bad', call['status'])}  {_plain(told)}"
        )


class _Paint:
    """Colours text where the terminal has colours."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, mood: str, text: str) -> str:
        return f"\x1b[{_COLOURS[mood]}m{text}\x1b[0m" if self._colours and mood and text.strip() else text


def _plain(text: str) -> str:
    """What callers and backends wrote, without what could steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
