"""The document of `gateway explain` for human eyes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

_ROLES = {"main": "", "canary": "canary, ", "shadow": "shadow, "}


def text(found: Json) -> str:
    """Some lines, without a line end after the last."""
    lines = [_head(found)]
    if found["method"] is not None:
        lines += [_row(name, value) for name, value in _method(found["method"]) if value]
    if found["task"] is not None:
        lines += [_row(name, value) for name, value in _facts(found) if value]
        for pool in found["pools"]:
            lines += ["", *_pool(pool)]
    return "\n".join(lines)


def _head(found: Json) -> str:
    if found["task"] is None:
        return f"no task: {found['how']}" if found["how"] else "no task"
    name = f"{found['model']} is " if found["model"] else ""
    return f"{name}task {found['task']}: {found['how']}"


def _row(name: str, value: str) -> str:
    return f"  {name:<12}{value}"


def _method(method: Json) -> list[tuple[str, str]]:
    renamed = method["instance_path"] if method["instance_path"] != method["path"] else ""
    return [
        ("called as", method["path"]),
        ("becomes", renamed),
        ("is", "a stream" if method["streaming"] else ""),
    ]


def _facts(found: Json) -> list[tuple[str, str]]:
    return [
        ("written at", ", refined by ".join(found["places"])),
        ("deadline", f"{found['timeout_ms']} ms, or the caller's own where that is shorter"),
        ("retries", _retries(found)),
        ("goes to", _shares(found["pools"])),
        (
            "rate",
            (
                ""
                if found["max_qps"] is None
                else f"{found['max_qps']} calls a second, {found['burst']} at once"
            ),
        ),
        ("callers", _callers(found)),
    ]


def _retries(found: Json) -> str:
    if not found["retries"]:
        return "none"
    return (
        f"{found['retries']}, at other instances, where nothing was answered, within the deadline and"
        f" {found['retry_budget_percent']} % of the pool's calls"
    )


def _shares(pools: Sequence[Json]) -> str:
    parts = [f"{pool['percent']:g} % to {pool['name']}" for pool in pools if pool["role"] != "shadow"]
    parts += [f"{pool['percent']:g} % copied to {pool['name']}" for pool in pools if pool["role"] == "shadow"]
    return "; ".join(parts)


def _callers(found: Json) -> str:
    asked = []
    if found["clients"] is not None:
        everyone = found["clients"] == ["*"]
        asked.append(
            "any client's API key" if everyone else f"the API key of {' or '.join(found['clients'])}"
        )
    if found["jwt"] is not None:
        asked.append(f"a token of {found['jwt']['name']} ({found['jwt']['issuer']})")
    return "have to show " + " and ".join(asked) if asked else "anybody"


def _pool(pool: Json) -> list[str]:
    told = [
        pool["policy"],
        f"{pool['health_check']} checks",
        f"{pool['max_in_flight']} calls in flight at most",
    ]
    if pool["tls"] is not None:
        name = pool["tls"]["server_name"] or "each host's name"
        told.append(f"TLS to {name}" + (", with a certificate of its own" if pool["tls"]["mutual"] else ""))
    if pool["fallback"]:
        told.append("falls back to " + ", then ".join(pool["fallback"]))
    lines = [f"pool {pool['name']} ({_ROLES[pool['role']]}{pool['percent']:g} %): {'; '.join(told)}"]
    rows = [_live(i) if "health" in i else _configured(i) for i in pool["instances"]]
    widths = [max((len(row[n]) for row in rows), default=0) for n in range(3)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append("  " + "  ".join((*cells, *row[3:])).rstrip())
    lines += [f"  {name}: has no address" for name in pool["unresolved"]]
    if not rows:
        lines.append("  no instance: UNAVAILABLE")
    return lines


def _address(instance: Json) -> str:
    return (
        f"{instance['address']} ({', '.join(instance['names'])})"
        if instance["names"]
        else str(instance["address"])
    )


def _configured(instance: Json) -> list[str]:
    share = (
        f"waits in {instance['from']}"
        if instance["from"]
        else f"{instance['weight_share'] * 100:.1f} % by weight"
    )
    return [_address(instance), f"weight {instance['weight']}", share]


def _live(instance: Json) -> list[str]:
    return [
        _address(instance),
        f"weight {instance['weight']}",
        f"{(instance['share'] or 0) * 100:.1f} % of the calls now",
        str(instance["health"]),
        f"{instance['in_flight']} in flight",
        *([f"from {instance['from']}"] if instance["from"] else []),
    ]
