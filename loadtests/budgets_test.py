from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from loadtests.budgets import BudgetError, evaluate, read, table
from loadtests.expressions import parse
from loadtests.histogram import Series
from loadtests.results import Phase, Results

OURS = Path(__file__).with_name("budgets.toml")


def phase(
    target: str, ms: Sequence[float], *, failed: int = 0, seconds: float = 1.0, loop: str = "open"
) -> Phase:
    series = Series()
    for time in ms:
        series.add(0, time / 1e3, None)
    for _ in range(failed):
        series.add(0, 1.0, "DEADLINE_EXCEEDED")
    return Phase("torch-mmoe", target, loop, seconds, series)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "budgets.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5 ms", 5.0),
        ("250us", 0.25),
        ("1.5 s", 1500.0),
        ("200 /s", 200.0),
        ("0.1 %", 0.001),
        (7, 7.0),
        ("direct.p50 + 2 * echo.p99", 3.0 + 2 * 10.0),
        ("0.5*direct.qps + 1", 51.0),
    ],
)
def test_limits(text: str, value: float) -> None:
    measured = {("direct", "p50"): 3.0, ("echo", "p99"): 10.0, ("direct", "qps"): 100.0}
    assert parse(text).value(lambda target, metric: measured.get((target, metric))) == pytest.approx(value)


def test_a_limit_of_what_was_not_measured() -> None:
    assert parse("1 ms + direct.p50").value(lambda target, metric: None) is None


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("fast", "no limit"),
        ("5 parsecs", "no limit"),
        ("2 * backend.p50", "'backend' is not measured"),
        ("direct.p98", "'p98' is no metric"),
        ("5 ms - 1 ms", "no limit"),
        ("", "no limit"),
    ],
)
def test_mistakes_in_a_limit_name_file_line_and_field(tmp_path: Path, limit: str, says: str) -> None:
    path = written(
        tmp_path, f'# mine\n[ci.other]\np50 = "1 ms"\n[ci.torch-mmoe]\nqps = "5 /s"\np50 = "{limit}"\n'
    )
    with pytest.raises(BudgetError, match=says) as caught:
        read(path, "ci")
    assert str(caught.value).startswith(f"{path}:6: ci.torch-mmoe.p50: ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[ci.a]\np50 = ", "Invalid value"),
        ("[production.a]\np50 = 1\n", "no set 'ci' of budgets; it has: production"),
        ("[ci]\np50 = '5 ms'\n", ":2: ci.p50 is no table"),
        ("[ci.a]\nP50 = '5 ms'\n", ":2: ci.a.P50: no such metric"),
        ("[ci.a]\np50 = true\n", ":2: ci.a.p50: expected a text"),
        ("[ci.a]\nerrors = 'direct.p50'\n", ":2: ci.a.errors: errors have a share"),
        ("[ci]\n", "is empty"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BudgetError) as caught:
        read(written(tmp_path, text), "ci")
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["ci", "production"])
def test_our_budgets_are_about_every_scenario(name: str) -> None:
    from loadtests.scenarios import SCENARIOS

    assert {budget.scenario for budget in read(OURS, name)} == set(SCENARIOS)


def test_kept_and_broken(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[ci.torch-mmoe]\np50 = "direct.p50 + echo.p50"\nqps = "0.5 * direct.qps"\nerrors = "1 %"\np99 = "5 ms"\n',
    )
    good = Results(
        phases=[phase("echo", [1] * 100), phase("direct", [2] * 100), phase("gateway", [2.9] * 99, failed=1)]
    )
    rows = evaluate(read(path, "ci"), good)
    assert [row.kept for row in rows] == [True] * 4
    bad = Results(
        phases=[phase("echo", [1] * 100), phase("direct", [2] * 100), phase("gateway", [6] * 40, failed=2)]
    )
    rows = evaluate(read(path, "ci"), bad)
    assert [row.kept for row in rows] == [False] * 4
    assert table(rows).count("BROKEN") == 4


def test_what_was_not_measured_keeps_no_budget(tmp_path: Path) -> None:
    path = written(tmp_path, '[ci.torch-mmoe]\np50 = "direct.p50"\n')
    (row,) = evaluate(read(path, "ci"), Results(phases=[phase("gateway", [1])]))
    assert not row.kept
    assert "not measured" in table([row])


def test_one_disturbed_round_does_not_count() -> None:
    results = Results(phases=[phase("gateway", [time] * 10) for time in (2.0, 90.0, 2.1)])
    assert results.metric("torch-mmoe", "gateway", "p50") == pytest.approx(2.1, rel=0.02)


def test_rates_are_the_closed_loops_and_times_the_open_ones() -> None:
    results = Results(phases=[phase("gateway", [1] * 10), phase("gateway", [9] * 500, loop="closed")])
    assert results.metric("torch-mmoe", "gateway", "qps") == 500
    assert results.metric("torch-mmoe", "gateway", "p50") == pytest.approx(1, rel=0.02)


def test_where_nothing_was_answered_no_budget_is_kept(tmp_path: Path) -> None:
    path = written(
        tmp_path, '[ci.torch-mmoe]\np50 = "2 * direct.p50"\np99 = "5 ms"\nqps = "0.5 * direct.qps"\n'
    )
    nothing = [phase("direct", []), phase("gateway", [])]
    rows = evaluate(read(path, "ci"), Results(phases=nothing))
    assert [row.kept for row in rows] == [False] * 3
    assert "no answers" in table(rows)
    # Nor where most rounds had no answers.
    rounds = [phase("direct", [1] * 9), phase("gateway", []), phase("gateway", [1] * 9), phase("gateway", [])]
    rows = evaluate(read(path, "ci"), Results(phases=rounds))
    assert [row.kept for row in rows] == [False] * 3


def test_results_survive_the_file(tmp_path: Path) -> None:
    results = Results({"when": "now"}, [phase("gateway", [1, 2, 3], failed=1)], [{"name": "torch-mmoe"}])
    results.write(tmp_path / "results.json")
    again = Results.read(tmp_path / "results.json")
    assert again.facts == results.facts
    assert again.phases[0].metrics == results.phases[0].metrics
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json holds no results"):
        Results.read(tmp_path / "other.json")
