"""What the alerts and the dashboard ask Prometheus: each query, and the metrics and labels that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

MONITORING = Path(__file__).parent / "monitoring"
# What Grafana puts in before it asks.
GRAFANA = {"$__rate_interval": "1m", "$task": ".*"}


@dataclass(frozen=True, slots=True)
class Use:
    """A metric that a query selects. `matched` has what its labels are compared with, `said` the query."""

    metric: str
    matched: Mapping[str, str]
    said: str


def alerts() -> list[dict[str, Any]]:
    (rule,) = yaml.safe_load_all((MONITORING / "alerts.yaml").read_text())
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Those that show something; the others are headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """Every query of the alerts and of the dashboard, as Prometheus gets it."""
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    for name, value in GRAFANA.items():
        asked = [query.replace(name, value) for query in asked]
    return [alert["expr"] for alert in alerts()] + asked


def parse(query: str) -> Any:
    """Raises ValueError for what is no PromQL."""
    return promql.parse(query)


def uses(query: str) -> list[Use]:
    """The metrics that a query selects."""
    found = []
    for node in nodes(parse(query)):
        if isinstance(node, promql.VectorSelector):
            matched = {matcher.name: matcher.value for matcher in node.matchers.matchers}
            found.append(Use(node.name or "", matched, query))
    return found


def grouped(query: str) -> set[str]:
    """The labels that a query groups by."""
    found: set[str] = set()
    for node in nodes(parse(query)):
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            found |= set(node.modifier.labels)
    return found


def nodes(expression: Any) -> Iterator[Any]:
    """An expression and all that is in it."""
    yield expression
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (inner := getattr(expression, name, None)) is not None:
            yield from nodes(inner)
    for argument in getattr(expression, "args", None) or ():
        yield from nodes(argument)
