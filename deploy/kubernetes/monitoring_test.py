"""Alerts and dashboard: PromQL that parses, alerts that say what to do, panels that do not overlap."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from deploy.kubernetes import queries

OPERATIONS = Path("docs/operations.md")
METRICS = Path("services/gateway/METRICS.md")


@pytest.mark.parametrize("query", queries.queries())
def test_every_query_parses_and_selects_a_metric(query: str) -> None:
    assert all(use.metric for use in queries.uses(query))
    assert queries.uses(query)


def test_what_is_no_query_is_found() -> None:
    for wrong in ("sum(rate(a[5m])", "rate(a)", "a > ", "histogram_quantile(a)"):
        with pytest.raises(ValueError, match=r".+"):
            queries.parse(wrong)


def test_every_part_of_a_query_is_looked_at() -> None:
    query = (
        'sum by (x) (rate(a_total{l="1"}[5m])) / on (y) (b > 2)'
        " or absent(c offset 5m) - -d and max_over_time(e[5m:1m])"
    )
    assert [(use.metric, dict(use.matched)) for use in queries.uses(query)] == [
        ("a_total", {"l": "1"}),
        ("b", {}),
        ("c", {}),
        ("d", {}),
        ("e", {}),
    ]
    assert queries.grouped(query) == {"x"}


@pytest.mark.parametrize("alert", queries.alerts(), ids=lambda alert: str(alert["alert"]))
def test_every_alert_has_a_page_in_the_runbook(alert: dict[str, dict[str, str]]) -> None:
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert file == str(OPERATIONS)
    assert f"\n### {alert['alert']}\n" in OPERATIONS.read_text()
    assert anchor == str(alert["alert"]).lower()
    assert alert["annotations"]["summary"]
    assert alert["labels"]["severity"] in ("page", "ticket")


def test_the_runbook_has_no_alert_that_is_not_there() -> None:
    _, _, runbook = OPERATIONS.read_text().partition("\n## Runbook\n")
    written = re.findall(r"^### (\w+)$", runbook, re.MULTILINE)
    assert written == [alert["alert"] for alert in queries.alerts()]


def test_the_reasons_of_failures_are_the_gateways() -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", METRICS.read_text(), re.MULTILINE))
    asked = [
        reason
        for query in queries.queries()
        for use in queries.uses(query)
        if use.metric == "dl_gateway_failures_total" and "reason" in use.matched
        for reason in use.matched["reason"].split("|")
    ]
    assert len(asked) > 5
    assert set(asked) <= known


def test_the_dashboards_panels_say_what_they_are_and_do_not_overlap() -> None:
    assert len(queries.panels()) > 20
    for panel in queries.panels():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    for one, other in combinations((panel["gridPos"] for panel in queries.dashboard()["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    ids = [panel["id"] for panel in queries.dashboard()["panels"]]
    assert len(ids) == len(set(ids))
