from __future__ import annotations

from collections import Counter

from benchmarks import load, soak
from benchmarks.openloop import Call


def test_memory_that_settles_is_flat() -> None:
    samples = [(float(at), 100.0 - 40.0 * 0.8**at) for at in range(100)]
    early, late, _, flat = soak.growth(samples)
    assert flat
    assert 99 < early <= late <= 100


def test_memory_that_grows_is_not() -> None:
    early, late, slope, flat = soak.growth([(float(at), 100.0 + at / 3) for at in range(100)])
    assert not flat
    assert round(late - early) == 20
    assert round(slope) == round(20 * 1024)  # a third of a MiB a second


def test_a_failure_near_a_kill_is_explained_and_another_is_not() -> None:
    log = soak.Log(kills=[100.0], served=[load.Served(1000, 0)])
    probe = [
        Call(100.5, 0.2, "UNAVAILABLE", "gone"),
        Call(99.0, 1.5, "UNAVAILABLE", "gone"),
        Call(98.0, 0.5, "OK"),
    ]
    rows, unexplained = soak.failures(log, probe)
    assert (rows, unexplained) == ([("client", "UNAVAILABLE: gone", "2", "a kill")], 0)
    rows, unexplained = soak.failures(log, [Call(107.0, 0.2, "INTERNAL", "bad")])
    assert (rows, unexplained) == ([("client", "INTERNAL: bad", "1", "NO")], 1)


def test_what_the_gateway_counts_between_two_samples_is_judged_by_their_times() -> None:
    counts = [
        (10.0, Counter(OK=5, UNAVAILABLE=1)),
        (11.0, Counter(OK=9, UNAVAILABLE=3)),
        (50.0, Counter(OK=20, UNAVAILABLE=3)),
        (51.0, Counter(OK=25, UNAVAILABLE=4)),
    ]
    log = soak.Log(kills=[9.5], counts=counts)
    rows, unexplained = soak.failures(log, [])
    assert unexplained == 1
    assert {(what, count, why) for _, what, count, why in rows} == {
        ("UNAVAILABLE", "2", "a kill"),
        ("UNAVAILABLE", "1", "NO"),
    }


def test_lost_requests_have_no_excuse() -> None:
    assert soak.failures(soak.Log(served=[load.Served(10, 3)]), [])[1] == 3
