"""What is counted to a phase, and that each promise can be broken."""

from __future__ import annotations

from deploy.hosts.phases import Outcome, Phase, calls_of, faults, row, shares, success, table

HOSTS = {"a": "203.0.113.11", "b": "203.0.113.12"}
PHASE = Phase("all there", 10.0, 20.0, 0.9, {"a": (0.2, 0.6), "b": (0.4, 0.8)})


def answered(begun_s: float, host: str, took_s: float = 0.01) -> Outcome:
    return Outcome(begun_s, took_s, f"{HOSTS[host]}:8866")


def test_a_call_counts_for_the_phase_in_which_it_began() -> None:
    outcomes = [answered(at, "a") for at in (9.99, 10.0, 19.99, 20.0)]
    assert calls_of(PHASE, outcomes) == outcomes[1:3]


def test_what_holds_has_no_faults() -> None:
    calls = [answered(11.0, "a")] * 4 + [answered(11.0, "b")] * 6
    assert faults(PHASE, calls, HOSTS) == []
    assert shares(calls, HOSTS) == {"a": 0.4, "b": 0.6}


def test_failed_calls_are_found_and_count_for_no_host() -> None:
    calls = (
        [answered(11.0, "a")] * 4
        + [answered(11.0, "b")] * 4
        + [Outcome(11.0, 1.0, error="DeadlineExceeded")] * 2
    )
    assert shares(calls, HOSTS) == {"a": 0.5, "b": 0.5}
    (fault,) = faults(PHASE, calls, HOSTS)
    assert "80.00% of 10 calls succeeded, wanted 90.0%" in fault
    assert "DeadlineExceeded" in fault


def test_a_host_with_too_many_or_too_few_calls_is_found() -> None:
    first, second = faults(PHASE, [answered(11.0, "a")] * 9 + [answered(11.0, "b")], HOSTS)
    assert "host a gave 90.0%" in first
    assert "host b gave 10.0%" in second


def test_a_phase_without_calls_does_not_hold() -> None:
    assert success([]) == 0.0
    assert "0.00% of 0 calls" in faults(PHASE, [], HOSTS)[0]


def test_the_table_has_a_line_a_phase() -> None:
    line = row(PHASE, [answered(11.0, "a", 0.002), answered(11.0, "b", 0.004)], HOSTS)
    assert line == ("all there", "10", "2", "100.00%", "4", "4", "50%", "50%")
    assert table(("x", "y"), [("long", "1")]) == "x     y\nlong  1"
