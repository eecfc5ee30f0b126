from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.balancing.controller import SCALE, EndpointReport, PoolMembers, WeightController
from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import PolicyName
from libs.balancing.tuning import DEFAULT

A, B, C = (Endpoint(f"10.0.0.{i}", 8500) for i in (1, 2, 3))
WINDOW_S = 0.5
FULL = 100 * SCALE


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """A controller of one pool, fed window by window."""

    def __init__(self, policy: PolicyName = PolicyName.LEAST_REQUEST, *members: Endpoint) -> None:
        self.clock = Clock()
        self.policy = policy
        self.controller = WeightController(self.clock)
        self.members(*(members or (A, B, C)))

    def members(self, *endpoints: Endpoint) -> None:
        self.controller.set_pools({"task-1": PoolMembers(self.policy, dict.fromkeys(endpoints, 100))})

    def window(self, *reports: EndpointReport, seconds: float = WINDOW_S) -> bool:
        self.clock.now_s += seconds
        return self.controller.observe("task-1", reports)

    def share(self, endpoint: Endpoint) -> float:
        """Of the pool's calls, as an idle data plane would spread them."""
        weights = self.controller.weights("task-1")
        return weights[endpoint] / sum(weights.values())

    def recovery_s(self, endpoint: Endpoint, *reports: EndpointReport) -> float:
        """How long until the endpoint has its weight back, window by window."""
        seconds = 0.0
        while self.controller.weights("task-1")[endpoint] < FULL:
            self.window(*reports)
            seconds += WINDOW_S
            assert seconds < 60
        return seconds


def ok(endpoint: Endpoint, calls: int = 50, latency_ms: float = 0.0) -> EndpointReport:
    return EndpointReport(endpoint, calls, 0, latency_ms * calls, calls if latency_ms else 0)


def bad(endpoint: Endpoint, calls: int = 50) -> EndpointReport:
    return EndpointReport(endpoint, 0, calls)


CHANGING = sorted(set(PolicyName) - {PolicyName.ROUND_ROBIN})


@pytest.mark.parametrize("policy", CHANGING)
@pytest.mark.parametrize("calls", [8, 50, 10**9])
def test_one_window_of_failures_takes_nearly_all_of_the_traffic(policy: PolicyName, calls: int) -> None:
    rig = Rig(policy)
    before = rig.share(A)
    assert rig.window(bad(A, calls), ok(B), ok(C))
    assert rig.share(A) <= 0.05 * before
    assert rig.controller.weights("task-1")[B] == FULL


def test_round_robin_keeps_the_configured_weights() -> None:
    clock = Clock()
    controller = WeightController(clock)
    controller.set_pools({"p": PoolMembers(PolicyName.ROUND_ROBIN, {A: 100, B: 300})})
    assert not controller.observe("p", [bad(A), ok(B)])
    assert controller.weights("p") == {A: 100 * SCALE, B: 300 * SCALE}
    assert controller.effective("p") == {A: 100, B: 300}


def test_the_share_comes_back_gradually_and_at_most_doubles_in_a_window() -> None:
    rig = Rig()
    rig.window(bad(A), ok(B), ok(C))
    shares = [rig.controller.weights("task-1")[A]]
    while shares[-1] < FULL:
        rig.window(ok(A), ok(B), ok(C))
        shares.append(rig.controller.weights("task-1")[A])
    assert 16 <= len(shares) <= 24  # 1 / 1000 to 1 is ten doublings of a second
    assert all(later <= 1.7 * earlier + 1 for earlier, later in pairwise(shares))


def test_silence_earns_the_share_back_after_a_while() -> None:
    rig = Rig()
    rig.window(bad(A), ok(B), ok(C))
    low = rig.controller.weights("task-1")[A]
    rig.window(ok(B, 5), ok(C, 5), seconds=0.4)
    assert rig.controller.weights("task-1")[A] == low
    assert 8 < rig.recovery_s(A, ok(B, 3), ok(C, 3)) < 13


def test_each_failed_trial_makes_the_next_one_later() -> None:
    rig = Rig()
    rig.window(bad(A), ok(B), ok(C))
    gaps = []
    for _ in range(5):
        waited = 0.0
        while rig.share(A) < 0.1:
            rig.window(ok(B, 3), ok(C, 3))
            waited += WINDOW_S
            assert waited < 60
        gaps.append(waited)
        rig.window(bad(A, 10), ok(B, 3), ok(C, 3))
    assert gaps == sorted(gaps)
    assert gaps[-1] > gaps[0]
    assert gaps[-1] <= 14


def test_an_idle_pool_keeps_its_weights() -> None:
    rig = Rig()
    rig.window(bad(A), ok(B), ok(C))
    before = rig.controller.weights("task-1")
    assert not rig.window()
    assert not rig.window(EndpointReport(A, 0, 0), seconds=60)
    assert rig.controller.weights("task-1") == before


def test_calls_without_an_end_earn_nothing() -> None:
    rig = Rig()
    rig.window(bad(A), ok(B), ok(C))
    before = rig.controller.weights("task-1")[A]
    for _ in range(20):
        rig.window(EndpointReport(A, 0, 0, in_flight=3), ok(B), ok(C))
    assert rig.controller.weights("task-1")[A] == before


def test_who_was_away_comes_back_gradually() -> None:
    rig = Rig()
    for _ in range(4):
        rig.window(ok(B), ok(C))
    assert rig.controller.weights("task-1")[A] <= DEFAULT.start * FULL * 1.2
    rig.window(ok(A, 3), ok(B), ok(C))
    assert rig.controller.weights("task-1")[A] < 0.2 * FULL
    assert 3 <= rig.recovery_s(A, ok(A), ok(B), ok(C)) <= 5


def test_silence_earns_nothing_where_the_others_are_so_busy_that_calls_would_have_come() -> None:
    # Ejected while it is frozen: back with a fiftieth of the weight it would be the first choice of all callers, again.
    for policy in (PolicyName.LEAST_REQUEST, PolicyName.PEAK_EWMA):
        rig = Rig(policy, A, B)
        rig.window(bad(A), ok(B))
        low = rig.controller.weights("task-1")[A]
        busy = EndpointReport(B, 300, 0, in_flight=31)
        for _ in range(20):
            rig.window(busy)
        assert rig.controller.weights("task-1")[A] == low
        assert 8 < rig.recovery_s(A, ok(A), busy) < 13


def test_turns_do_not_heed_calls_in_flight() -> None:
    rig = Rig(PolicyName.WEIGHTED, A, B)
    rig.window(bad(A), ok(B))
    assert 8 < rig.recovery_s(A, EndpointReport(B, 3, 0, in_flight=31)) < 13


def test_who_fails_and_is_slow_is_nobodys_first_choice_even_in_a_busy_pool() -> None:
    rig = Rig(PolicyName.PEAK_EWMA, A, B)
    rig.window(ok(A, latency_ms=10), ok(B, latency_ms=10))
    rig.window(EndpointReport(A, 0, 20, in_flight=16), ok(B, latency_ms=10))
    for _ in range(3):
        rig.window(EndpointReport(A, 0, 0, in_flight=16), ok(B, latency_ms=10))
    # With none in flight against 32, and a bias of 2.
    assert rig.controller.weights("task-1")[A] < 0.2 * rig.controller.weights("task-1")[B] / (32 + 1) ** 2


def test_who_gets_no_call_in_a_quiet_pool_is_not_taken_for_away() -> None:
    rig = Rig()
    for _ in range(8):
        assert not rig.window(ok(B, 2), ok(C, 2))


def test_a_few_failures_everywhere_change_nothing_and_half_costs_half() -> None:
    rig = Rig()
    mixed = [EndpointReport(e, 98, 2) for e in (A, B, C)]
    assert not any(rig.window(*mixed) for _ in range(10))
    for _ in range(10):
        rig.window(EndpointReport(A, 50, 50), ok(B), ok(C))
    assert rig.controller.weights("task-1")[A] == pytest.approx(FULL / 2, rel=0.1)


def test_a_new_endpoint_of_a_working_pool_warms_up_and_all_new_ones_do_not() -> None:
    rig = Rig(PolicyName.LEAST_REQUEST, A, B)
    rig.members(A, B, C)
    assert rig.controller.weights("task-1")[C] == FULL  # no call yet: nobody is warm
    rig.members(A, B)
    rig.window(ok(A), ok(B))
    rig.members(A, B, C)
    assert rig.controller.weights("task-1")[C] == pytest.approx(DEFAULT.start * FULL, rel=0.1)
    assert 3 <= rig.recovery_s(C, ok(A), ok(B), ok(C)) <= 5
    rig.members(Endpoint("10.0.1.1", 1), Endpoint("10.0.1.2", 1))
    assert set(rig.controller.weights("task-1").values()) == {FULL}


def test_a_reload_keeps_the_share_of_who_stays_under_any_weight() -> None:
    rig = Rig()
    rig.window(bad(A), ok(B), ok(C))
    low = rig.controller.weights("task-1")[A]
    rig.controller.set_pools(
        {
            "task-1": PoolMembers(PolicyName.WEIGHTED, {A: 1000, B: 100}),
            "task-2": PoolMembers(PolicyName.WEIGHTED, {A: 100}),
        }
    )
    assert rig.controller.weights("task-1")[A] == pytest.approx(10 * low, abs=10)
    assert rig.controller.weights("task-2") == {A: FULL}
    assert rig.controller.weights("task-3") == {}
    assert not rig.controller.observe("task-3", [bad(A)])


def test_latency_moves_the_weights_of_peak_ewma_alone() -> None:
    for policy in CHANGING:
        rig = Rig(policy)
        for _ in range(4):
            rig.window(ok(A, 50, 40.0), ok(B, 50, 10.0), ok(C, 50, 10.0))
        weight = rig.controller.weights("task-1")[A]
        assert weight == (
            pytest.approx(FULL * (1.4 / 4) ** 2, rel=0.1) if policy is PolicyName.PEAK_EWMA else FULL
        )


def test_latencies_that_differ_a_little_are_equal() -> None:
    rig, rng = Rig(PolicyName.PEAK_EWMA), random.Random(2)
    for _ in range(20):
        assert not rig.window(*(ok(e, 50, rng.uniform(9.6, 10.4)) for e in (A, B, C)))


def test_a_slow_endpoint_that_is_fast_again_gets_its_share_back() -> None:
    rig = Rig(PolicyName.PEAK_EWMA)
    for _ in range(4):
        rig.window(ok(A, 50, 200.0), ok(B, 50, 10.0), ok(C, 50, 10.0))
    assert rig.share(A) < 0.05
    assert rig.recovery_s(A, ok(A, 5, 10.0), ok(B, 50, 10.0), ok(C, 50, 10.0)) < 30


def test_calls_that_nobody_answers_are_slow_before_they_are_late() -> None:
    rig = Rig(PolicyName.PEAK_EWMA)
    rig.window(*(ok(e, 50, 10.0) for e in (A, B, C)))
    stuck = EndpointReport(A, 0, 0, in_flight=4)
    shares = []
    for _ in range(3):
        rig.window(stuck, ok(B, 50, 10.0), ok(C, 50, 10.0))
        shares.append(rig.share(A))
    assert shares[0] > 0.3
    assert shares[1] < 0.01
    # Another data plane that has no call there says nothing about those that wait.
    rig.window(ok(B, 50, 10.0), ok(C, 50, 10.0))
    assert rig.share(A) < 0.01


def test_calls_that_are_all_stuck_at_one_endpoint_take_its_weight_before_they_end() -> None:
    rig = Rig(PolicyName.PEAK_EWMA, A, B)
    for _ in range(4):
        rig.window(ok(A, latency_ms=10), ok(B, latency_ms=10))
    for _ in range(3):
        rig.window(EndpointReport(A, 0, 0, in_flight=8))
    # In flight 0 against 8, as when all ask again at once, with a bias of 2.
    assert rig.controller.weights("task-1")[A] < rig.controller.weights("task-1")[B] / (8 + 1) ** 2


def test_a_peak_fades_without_answers() -> None:
    rig = Rig(PolicyName.PEAK_EWMA)
    for _ in range(4):
        rig.window(ok(A, 50, 200.0), ok(B, 50, 10.0), ok(C, 50, 10.0))
    assert rig.recovery_s(A, ok(B, 2, 10.0), ok(C, 2, 10.0)) < 20


def test_failing_fast_is_not_fast() -> None:
    rig = Rig(PolicyName.PEAK_EWMA)
    for _ in range(4):
        rig.window(EndpointReport(A, 0, 50, 5.0, 50), ok(B, 50, 10.0), ok(C, 50, 10.0))
    assert rig.controller.weights("task-1")[B] == FULL


def test_windows_of_several_reporters_add_up() -> None:
    one, two = Rig(), Rig()
    for _ in range(6):
        one.window(EndpointReport(A, 30, 30), ok(B), ok(C))
        two.window(EndpointReport(A, 15, 15), ok(B), ok(C), seconds=0.25)
        two.window(EndpointReport(A, 15, 15), ok(B), ok(C), seconds=0.25)
    assert one.controller.weights("task-1") == two.controller.weights("task-1")


REPORTS = st.lists(
    st.builds(
        EndpointReport,
        st.sampled_from([A, B, C, Endpoint("10.9.9.9", 1)]),
        st.integers(0, 1000),
        st.integers(0, 1000),
        st.floats(0, 1e9),
        st.integers(0, 1000),
        st.integers(0, 100),
    ),
    max_size=5,
)


@pytest.mark.parametrize("policy", PolicyName)
@given(windows=st.lists(st.tuples(st.floats(0, 100), REPORTS), max_size=20), weight=st.integers(1, 1000))
def test_no_report_leaves_an_endpoint_without_weight_or_with_too_much(
    policy: PolicyName, windows: list[tuple[float, list[EndpointReport]]], weight: int
) -> None:
    clock = Clock()
    controller = WeightController(clock)
    controller.set_pools({"p": PoolMembers(policy, dict.fromkeys((A, B, C), weight))})
    for seconds, reports in windows:
        clock.now_s += seconds
        before = controller.weights("p")
        assert controller.observe("p", reports) == (controller.weights("p") != before)
        assert all(1 <= found <= weight * SCALE for found in controller.weights("p").values())
        assert all(1 <= found <= weight for found in controller.effective("p").values())
