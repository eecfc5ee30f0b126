"""The status page: one HTML document with everything in it, drawn from the status document. Pure.

A browser with scripts replaces the middle of the page every two seconds; one without reloads it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from services.gateway import status_parts
from services.gateway.status import TROUBLES
from services.gateway.status_words import span

Json = dict[str, Any]

# Only this script runs, whatever names hold; and the page loads nothing from anywhere else.
_HASH = base64.b64encode(hashlib.sha256(status_parts.SCRIPT.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; connect-src 'self'"

SHOWN = 50  # tasks, unless all are asked for


@dataclass(frozen=True, slots=True)
class Choice:
    """What the reader asked to see."""

    text: str = ""  # tasks whose id, pools or instances contain it
    all: bool = False

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Choice:
        return cls(query.get("q", "").strip()[:100], "all" in query)

    def query(self, **more: str) -> str:
        chosen = {"q": self.text} if self.text else {}
        return urlencode(chosen | ({"all": "1"} if self.all else {}) | more)


def found(document: Json, choice: Choice) -> list[str]:
    """The tasks that match, those in trouble first, then the busiest."""

    def matches(name: str, task: Json) -> bool:
        text = choice.text
        return (
            not text
            or text in name
            or text == task["trouble"]
            or any(
                text in pool["name"] or any(text in instance["address"] for instance in pool["instances"])
                for pool in task["pools"]
            )
        )

    tasks = document["tasks"]
    return sorted(
        (name for name, task in tasks.items() if matches(name, task)),
        key=lambda name: (
            TROUBLES.index(tasks[name]["trouble"]),
            -tasks[name]["last_10s"]["rate"],
            int(name),
        ),
    )


def shown(document: Json, choice: Choice) -> list[str]:
    """The tasks that are drawn."""
    names = found(document, choice)
    return names if choice.all else names[:SHOWN]


def page(document: Json, choice: Choice) -> str:
    """The whole document."""
    title = f"gateway {document['gateway']['listen']}"
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f'<meta http-equiv=Content-Security-Policy content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{status_parts.STYLE}</style>"
        '<noscript><meta http-equiv=refresh content="5"></noscript>'
        f"<main id=m>{main(document, choice)}</main><footer>"
        "<a href=/status.json>status.json</a> <a href=/metrics>metrics</a> <a href=/envoy/stats>Envoy's statistics</a> "
        "<a href=/ready>ready</a></footer>"
        f"<script>{status_parts.SCRIPT}</script></html>"
    )


def main(document: Json, choice: Choice) -> str:
    """The part that changes."""
    names = found(document, choice)
    few = names if choice.all else names[:SHOWN]
    return "".join(
        (
            _head(document),
            status_parts.problems(document["problems"]),
            status_parts.totals(document),
            _filter(document, choice, len(names)),
            status_parts.tasks(document, few),
            _more(choice, len(few), len(names)),
            status_parts.failed_calls(document["failed_calls"], document["time"]),
            status_parts.certificates(document["certificates"], document["time"]),
        )
    )


def _head(document: Json) -> str:
    gateway, config = document["gateway"], document["config"]
    mood = "good" if gateway["ready"] else "bad"
    loaded = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(config["loaded_at"]))
    facts = [
        f"up {span(gateway['uptime_s'])}",
        f"configuration {config['version']} of {loaded}"
        + ("" if config["accepted"] else ", on its way to Envoy")
        + (f", {config['rejected']} edits rejected" if config["rejected"] else ""),
        ", ".join(config["sources"]),
        f"Envoy {gateway['envoy_version']}, "
        + (f"process {gateway['envoy_pid']}" if gateway["envoy_pid"] else "down")
        + f", {gateway['envoy_restarts']} restarts",
    ]
    if gateway["control_restarts"]:
        facts.append(f"control plane {gateway['control_restarts']} restarts")
    return (
        f"<h1>gateway {html.escape(gateway['listen'])} <b class={mood}>{html.escape(gateway['state'])}</b></h1>"
        f"<p class=facts>{' · '.join(html.escape(fact) for fact in facts)}</p>"
    )


def _filter(document: Json, choice: Choice, matching: int) -> str:
    tasks: Sequence[Json] = list(document["tasks"].values())
    sick = sum(bool(task["trouble"]) for task in tasks)
    said = f"{len(tasks)} tasks, {sick} in trouble" if sick else f"{len(tasks)} tasks, all well"
    if choice.text:
        said = f"{matching} of {said}"
    kept = "<input type=hidden name=all value=1>" if choice.all else ""
    return (
        f'<form id=f method=get><h2>Tasks</h2><input name=q id=q type=search placeholder="id, pool or instance"'
        f' value="{html.escape(choice.text)}" aria-label=filter>{kept}<span class=dim>{said}</span></form>'
    )


def _more(choice: Choice, drawn: int, matching: int) -> str:
    if drawn == matching:
        return ""
    href = html.escape("/?" + Choice(choice.text, True).query())
    said = f"{drawn} of {matching}, those in trouble first, then the busiest."
    return f'<p class=dim>{said} <a href="{href}">Show all</a></p>'
