"""Properties of the pure batch queue."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from libs.serving.batching import BatchPolicy, BatchQueue, State, Take, Ticket
from libs.serving.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted

MAX_BATCH = 5
MAX_QUEUE = 12


def _queue(**policy: object) -> BatchQueue[Ticket[str]]:
    return BatchQueue(BatchPolicy(**{"max_batch_size": MAX_BATCH, "max_queue_rows": MAX_QUEUE, **policy}))  # type: ignore[arg-type]


def _offer(queue: BatchQueue[Ticket[str]], name: str, now: float = 0.0, **fields: object) -> Ticket[str]:
    ticket = Ticket(name, **fields)  # type: ignore[arg-type]
    queue.offer(ticket, now)
    return ticket


def _names(tickets: list[Ticket[str]]) -> list[str]:
    return [ticket.item for ticket in tickets]


def test_an_empty_queue_has_nothing_to_run_or_to_wait_for() -> None:
    take = _queue().take(0)
    assert (take.batch, take.rows, take.dropped, take.wake_at) == ([], 0, [], None)


def _run(queue: BatchQueue[Ticket[str]], now: float, seconds: float) -> list[str]:
    """Takes a batch, lets it run for so long, and answers its names."""
    take = queue.take(now)
    if take.batch:
        queue.finished(take, now + seconds)
    return _names(take.batch)


def _returning(queue: BatchQueue[Ticket[str]], callers: int = 4, seconds: float = 0.1) -> float:
    """Some cycles of callers who are answered together and return 1 ms later, 1 ms apart; when the last cycle
    ended."""
    now = 0.0
    for _ in range(8):
        for number in range(callers):
            _offer(queue, str(number), now + 0.001 * (number + 1))
        assert len(_run(queue, now + 0.01, seconds)) == callers
        now += 0.01 + seconds
    return now


def test_a_key_may_bear_fewer_rows_than_others() -> None:
    policy = BatchPolicy(max_batch_size=MAX_BATCH, max_queue_rows=MAX_QUEUE)
    queue: BatchQueue[Ticket[str]] = BatchQueue(
        policy, limit=lambda ticket: 2 if ticket.key == "small" else 99
    )
    for number in range(5):
        _offer(queue, f"s{number}", key="small")
        _offer(queue, f"l{number}", key="large")
    assert sorted(_run(queue, 1.0, 0.1) for _ in range(4)) == [
        ["l0", "l1", "l2", "l3", "l4"],
        ["s0", "s1"],
        ["s2", "s3"],
        ["s4"],
    ]
    _offer(queue, "wide", key="small", rows=4)  # one that is larger by itself runs alone
    _offer(queue, "next", key="small")
    assert [_run(queue, 2.0, 0.1) for _ in range(2)] == [["wide"], ["next"]]


def test_a_lone_request_runs_at_once_whatever_the_delay() -> None:
    queue = _queue(max_delay_ms=1000)
    for number in range(20):
        _offer(queue, "lone", number * 0.2 + 0.1)
        assert _run(queue, number * 0.2 + 0.1, 0.1) == ["lone"]


def test_callers_about_to_return_are_waited_for() -> None:
    queue = _queue(max_delay_ms=None)
    end = _returning(queue)
    _offer(queue, "first", end + 0.001)
    take = queue.take(end + 0.001)
    assert take.batch == []
    assert take.wake_at is not None
    assert 0.004 < take.wake_at - end < 0.0121
    assert not queue.wakes
    _offer(queue, "second", end + 0.002)
    _offer(queue, "third", end + 0.003)
    assert not queue.wakes
    _offer(queue, "fourth", end + 0.004)
    assert queue.wakes, "all are back"
    assert _names(queue.take(end + 0.004).batch) == ["first", "second", "third", "fourth"]


def test_stragglers_are_not_waited_for() -> None:
    queue = _queue(max_delay_ms=None)
    end = _returning(queue)
    _offer(queue, "first", end + 0.001)
    wake_at = queue.take(end + 0.001).wake_at
    assert wake_at is not None
    assert _names(queue.take(wake_at).batch) == ["first"]


def test_the_delay_is_a_bound() -> None:
    end = _returning(queue := _queue(max_delay_ms=2.5))
    _offer(queue, "first", end + 0.001)
    wake_at = queue.take(end + 0.001).wake_at
    assert wake_at is not None
    assert 0.0015 < wake_at - end <= 0.0025
    end = _returning(queue := _queue(max_delay_ms=0))
    _offer(queue, "first", end + 0.001)
    assert _names(queue.take(end + 0.001).batch) == ["first"]


def test_much_later_nobody_is_waited_for() -> None:
    end = _returning(queue := _queue(max_delay_ms=None))
    _offer(queue, "much later", end + 1.0)
    assert _names(queue.take(end + 1.0).batch) == ["much later"]


def test_a_full_batch_does_not_wait() -> None:
    end = _returning(queue := _queue(max_delay_ms=1000), MAX_BATCH)
    for name in "abcde":
        _offer(queue, name, end)
    assert _names(queue.take(end).batch) == list("abcde")


@pytest.mark.parametrize("urgent", [1, 2])
def test_a_request_is_not_held_past_its_deadline(urgent: int) -> None:
    end = _returning(queue := _queue(max_delay_ms=None))
    _offer(queue, "first", end + 0.001, deadline=end + (0.101 if urgent == 1 else 1))
    held = queue.take(end + 0.001)
    assert (held.wake_at is None) == (urgent == 1)
    if urgent == 2:
        _offer(queue, "urgent", end + 0.002, deadline=end + 0.123)
        assert queue.wakes
        held = queue.take(end + 0.002)
    assert len(held.batch) == urgent


def test_keys_do_not_mix_and_the_oldest_head_goes_first() -> None:
    queue = _queue()
    for name, key in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("c1", "c"), ("b2", "b")):
        _offer(queue, name, key=key)
    assert [_names(queue.take(0).batch) for _ in range(4)] == [["a1", "a2"], ["b1", "b2"], ["c1"], []]


def test_an_item_that_does_not_fit_is_not_overtaken() -> None:
    queue = _queue()
    for name, rows in (("three", 3), ("four", 4), ("one", 1)):
        _offer(queue, name, rows=rows)
    assert _names(queue.take(0).batch) == ["three"]
    assert _names(queue.take(0).batch) == ["four", "one"]


@pytest.mark.parametrize("rows", [0, -1, MAX_BATCH + 1])
def test_an_item_of_impossible_size_is_refused(rows: int) -> None:
    with pytest.raises(InvalidArgument, match=f"{rows} rows"):
        _offer(_queue(), "odd", rows=rows)


def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    queue = _queue()
    for number in range(MAX_QUEUE):
        _offer(queue, str(number))
    with pytest.raises(ResourceExhausted, match="12 of 12 rows"):
        _offer(queue, "more")
    assert queue.rows == queue.items == MAX_QUEUE
    queue.take(0)
    _offer(queue, "fits now")


def test_an_expired_request_is_refused_and_an_expiring_one_dropped() -> None:
    queue = _queue()
    with pytest.raises(DeadlineExceeded):
        _offer(queue, "late", 2.0, deadline=2.0)
    ticket = _offer(queue, "soon late", 2.0, deadline=2.5)
    take = queue.take(2.5)
    assert (take.batch, take.dropped, ticket.state) == ([], [ticket], State.EXPIRED)
    assert queue.rows == 0


def test_a_cancelled_request_is_dropped() -> None:
    queue = _queue()
    gone = _offer(queue, "gone", cancelled=lambda: True)
    here = _offer(queue, "here")
    take = queue.take(0)
    assert (take.batch, take.dropped, gone.state) == ([here], [gone], State.CANCELLED)


def test_withdrawal_frees_rows_and_happens_once() -> None:
    queue = _queue()
    ticket = _offer(queue, "a", rows=4)
    assert queue.withdraw(ticket)
    assert not queue.withdraw(ticket)
    assert (queue.rows, queue.items) == (0, 0)
    running = _offer(queue, "b")
    queue.take(0)
    assert not queue.withdraw(running)


def test_a_hanging_model_does_not_collect_the_requests_of_callers_who_left() -> None:
    queue = _queue()
    first = _offer(queue, "stays", key="k0")
    for number in range(5000):
        ticket = _offer(queue, f"leaves {number}", key=f"k{number % 3}")
        assert queue.withdraw(ticket)
    level = queue._levels[0]
    assert len(level._order) < 300
    assert sum(len(lane.tickets) for lane in level.lanes.values()) < 300
    assert _names(queue.take(0).batch) == ["stays"]
    assert first.state is State.TAKEN
    assert not queue._levels[0]._order
    assert not queue._levels[0].lanes


def test_a_key_whose_requests_always_expire_leaves_nothing_behind() -> None:
    queue = _queue()
    for number in range(1000):
        _offer(queue, "expires", number, key="a", deadline=number + 0.5)
        _offer(queue, "runs", number, key="b")
        assert _names(queue.take(number + 0.6).batch) == ["runs"]
    assert not queue._levels[0]._order
    assert not queue._levels[0].lanes


def test_drain_gives_back_what_is_left_in_order() -> None:
    queue = _queue()
    tickets = [_offer(queue, name, key=name) for name in "abc"]
    queue.withdraw(tickets[1])
    assert queue.drain() == [tickets[0], tickets[2]]
    assert (queue.rows, queue.items) == (0, 0)
    assert queue.take(0).batch == []


@pytest.mark.parametrize(
    "fields,match",
    [
        ({"max_batch_size": 0, "max_queue_rows": 1}, "max_batch_size is 0"),
        ({"max_batch_size": 8, "max_queue_rows": 4}, "max_queue_rows is 4"),
        ({"max_batch_size": 1, "max_queue_rows": 1, "max_delay_ms": -1}, "max_delay_ms is -1"),
        ({"max_batch_size": 1, "max_queue_rows": 1, "max_delay_ms": float("inf")}, "max_delay_ms is inf"),
        ({"max_batch_size": 1, "max_queue_rows": 1, "starvation_ms": float("nan")}, "starvation_ms is nan"),
        (
            {"max_batch_size": 8, "max_queue_rows": 8, "preferred_batch_sizes": (4, 9)},
            "has 9: expected 1 to 8",
        ),
    ],
)
def test_a_policy_says_what_is_wrong_with_it(fields: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        BatchPolicy(**fields)  # type: ignore[arg-type]


def test_priorities_are_strict_and_spare_room_goes_to_the_lower() -> None:
    queue = _queue()
    for name, priority in (
        ("low 1", 5),
        ("mid 1", 0),
        ("high 1", -1),
        ("low 2", 5),
        ("high 2", -1),
        ("mid 2", 0),
    ):
        _offer(queue, name, priority=priority)
    _offer(queue, "high b", key="b", priority=-1)
    assert sorted(_names(queue.take(0).batch)) == ["high 1", "high 2", "low 1", "mid 1", "mid 2"]
    assert _names(queue.take(0).batch) == ["high b"]
    assert _names(queue.take(0).batch) == ["low 2"]
    assert [level.priority for level in queue._levels] == [0], "empty priorities leave nothing behind"


def test_of_one_priority_the_oldest_goes_first_though_others_lie_between() -> None:
    queue = _queue()
    for number in range(MAX_BATCH + 1):
        _offer(queue, f"low {number}", float(number), priority=1)
    _offer(queue, "high", 10.0, key="other")
    assert _names(queue.take(10.0).batch) == ["high"]
    assert _names(queue.take(10.0).batch) == [f"low {number}" for number in range(MAX_BATCH)]


def test_a_starving_priority_gets_every_fourth_batch() -> None:
    queue = _queue(starvation_ms=500)
    for number in range(4):
        _offer(queue, f"low {number}", 0.0, key=number, priority=1)
    seen = []
    for number in range(12):
        now = 0.2 * number
        _offer(queue, "high", now, key="high")
        seen.append(queue.take(now).batch[0].item)
    assert "".join(name[0] for name in seen) == "hhhhhhlhhhlh"
    assert [name for name in seen if name != "high"] == ["low 0", "low 1"]


def test_a_full_queue_sheds_the_newest_of_the_lowest_priority() -> None:
    queue = _queue()
    tickets = {name: _offer(queue, name, priority=int(name[0]), rows=3) for name in ("2a", "1a", "2b", "1b")}
    offered: Ticket[str] = Ticket("0", rows=4, priority=0)
    assert queue.offer(offered, 0.0) == [tickets["2b"], tickets["2a"]]
    assert tickets["2b"].state is State.SHED
    assert queue.rows == 10
    with pytest.raises(ResourceExhausted, match="10 of 12 rows"):
        _offer(queue, "equals shed nobody", priority=1, rows=3)
    queue = _queue()
    for rows, priority in ((5, 0), (4, 0), (3, 1)):
        _offer(queue, "x", rows=rows, priority=priority)
    with pytest.raises(ResourceExhausted):
        _offer(queue, "shedding would not do", rows=4)
    assert queue.rows == MAX_QUEUE


def test_batches_are_cut_to_the_largest_preferred_size_that_is_filled() -> None:
    queue = _queue(preferred_batch_sizes=(2, 4))
    sizes = []
    for waiting in range(1, 8):
        for _ in range(waiting):
            _offer(queue, "x")
        cut = []
        while batch := queue.take(0).batch:
            cut.append(len(batch))
        sizes.append(cut)
    assert sizes == [[1], [2], [2, 1], [4], [4, 1], [4, 2], [4, 2, 1]]


def test_an_item_larger_than_the_preferred_size_runs_all_the_same() -> None:
    queue = _queue(preferred_batch_sizes=(2,))
    _offer(queue, "three", rows=3)
    _offer(queue, "one")
    assert [_names(queue.take(0).batch) for _ in range(2)] == [["three"], ["one"]]


def test_what_would_be_late_in_the_next_batch_is_not_cut_off() -> None:
    queue = _queue(preferred_batch_sizes=(2,))
    for number in range(4):
        _offer(queue, "x", float(number))
        assert _run(queue, float(number), 0.1) == ["x"]
    for begin, cut in ((10.0, True), (20.0, False)):
        for deadline in (None, None, begin + 0.245):
            _offer(queue, "x", begin, deadline=deadline)
        took = begin + (0.001 if cut else 0.03)
        assert len(_run(queue, took, 0.1)) == (2 if cut else 3)
        assert len(_run(queue, took + 0.1, 0.1)) == (1 if cut else 0)


def _known(**policy: object) -> BatchQueue[Ticket[str]]:
    """A queue whose runs are known to take 100 ms whatever their rows; the time is 1.0."""
    queue = _queue(**policy)
    for number in range(8):
        for _ in range(1 + number % 2 * 3):
            _offer(queue, "x", 0.1 * number)
        assert _run(queue, 0.1 * number, 0.1)
    return queue


def test_what_the_queue_would_make_late_is_refused_at_once() -> None:
    queue = _known()
    for _ in range(MAX_BATCH):
        _offer(queue, "runs", 1.0)
    assert queue.take(1.0).rows == MAX_BATCH
    _offer(queue, "next", 1.0, deadline=1.23)
    with pytest.raises(ResourceExhausted, match="queue is too long.* take 220 ms .* in 215 ms"):
        _offer(queue, "late", 1.0, deadline=1.215)
    for _ in range(MAX_BATCH):
        _offer(queue, "waits", 1.0)
    with pytest.raises(ResourceExhausted):
        _offer(queue, "late", 1.0, deadline=1.29)
    _offer(queue, "overtakes those of lower priority", 1.0, deadline=1.29, priority=-1)


def test_an_overdue_run_is_expected_to_take_as_long_again() -> None:
    queue = _known()
    _offer(queue, "hangs", 1.0)
    queue.take(1.0)
    with pytest.raises(ResourceExhausted, match="take 520 ms"):
        _offer(queue, "x", 1.5, deadline=1.9)


def test_a_deadline_sooner_than_any_run_is_refused_and_dropped() -> None:
    queue = _known()
    with pytest.raises(DeadlineExceeded, match="in 80 ms and the model takes 90 ms or more"):
        _offer(queue, "hasty", 1.0, deadline=1.08)
    ticket = _offer(queue, "waits too long", 1.0, deadline=1.2)
    assert queue.take(1.12).dropped == [ticket]
    assert _names([_offer(queue, "probe", 2.5, deadline=2.501)]) == ["probe"]
    assert _names(queue.take(2.5).batch) == ["probe"], "after a second without a run one runs all the same"


def test_where_more_wait_than_can_run_nobody_gets_a_place_who_would_be_late() -> None:
    queue = _known()
    late = [_offer(queue, "late", 1.0, deadline=1.14) for _ in range(3)]
    for _ in range(4):
        _offer(queue, "in time", 1.0)
    take = queue.take(1.03)
    assert take.dropped == late[:2], "only as many as others need places"
    assert _names(take.batch) == ["late"] + ["in time"] * 4
    assert {ticket.state for ticket in take.dropped} == {State.EXPIRED}


def test_a_batch_grows_no_larger_than_its_deadlines_allow() -> None:
    queue = _queue()
    now = 0.0
    for rows in (1, 4, 1, 4):  # 10 ms and 100 ms a row
        _offer(queue, "x", now, rows=rows)
        assert _run(queue, now, 0.01 + 0.1 * rows)
        now += 1.0
    _offer(queue, "in a hurry", now, deadline=now + 0.4)
    for _ in range(4):
        _offer(queue, "not", now)
    assert len(_run(queue, now, 0.31)) == 3, "1.2 times what 3 rows take"
    assert len(_run(queue, now + 0.31, 0.21)) == 2
    now += 1.0
    _offer(queue, "late in any batch", now, deadline=now + 0.12)
    for _ in range(4):
        _offer(queue, "not", now)
    assert len(queue.take(now + 0.015).batch) == 5, "what is late anyhow makes none smaller"


def test_with_several_threads_the_queue_is_shorter() -> None:
    queue: BatchQueue[Ticket[str]] = BatchQueue(BatchPolicy(MAX_BATCH, 100), threads=2)
    for number in range(8):
        for _ in range(1 + number % 2 * 3):
            _offer(queue, "x", 0.1 * number)
        assert _run(queue, 0.1 * number, 0.1)
    _offer(queue, "runs", 1.0)
    queue.take(1.0)
    _offer(queue, "finds a free thread", 1.0, deadline=1.11)
    queue.take(1.0)
    with pytest.raises(ResourceExhausted):
        _offer(queue, "does not", 1.0, deadline=1.11)


def test_failed_runs_teach_nothing() -> None:
    queue = _queue()
    _offer(queue, "x", 0.0)
    queue.finished(queue.take(0.0), 5.0, failed=True)
    assert queue.cost.calls == 0
    _offer(queue, "y", 5.0, deadline=5.01)


PREFERRED = (2, 4)


class QueueMachine(RuleBasedStateMachine):
    """Any history of offers, takes, runs and departures, against a plain list as the model."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = _queue(max_delay_ms=None, preferred_batch_sizes=PREFERRED, starvation_ms=2000)
        self.now = 0.0
        self.waiting: list[Ticket[str]] = []
        self.running: list[Take[Ticket[str]]] = []
        self.outcomes: dict[str, str] = {}
        self.left: set[str] = set()
        self.count = 0
        self.passed_over = 0

    def _settle(self, ticket: Ticket[str], outcome: str) -> None:
        assert ticket.item not in self.outcomes, "a second outcome"
        self.outcomes[ticket.item] = outcome
        self.waiting.remove(ticket)

    @rule(
        rows=st.integers(0, MAX_BATCH + 1),
        key=st.sampled_from("ab"),
        patience=st.none() | st.floats(-1, 5),
        priority=st.integers(-1, 1),
    )
    def offer(self, rows: int, key: str, patience: float | None, priority: int) -> None:
        self.count += 1
        deadline = None if patience is None else self.now + patience
        ticket: Ticket[str] = Ticket(str(self.count), rows, key, deadline, priority=priority)
        ticket.cancelled = lambda: ticket.item in self.left
        queued = sum(other.rows for other in self.waiting)
        lower = [other for other in self.waiting if other.priority > priority]
        try:
            shed = self.queue.offer(ticket, self.now)
        except InvalidArgument:
            assert not 1 <= rows <= MAX_BATCH
        except DeadlineExceeded:
            assert ticket.deadline is not None
            assert ticket.deadline <= self.now + self.queue.cost.least(self.now)
        except ResourceExhausted as error:
            full = queued - sum(other.rows for other in lower) + rows > MAX_QUEUE
            assert full or (ticket.deadline is not None and "too long" in error.message)
        else:
            lower.sort(key=lambda other: (other.priority, int(other.item)))
            assert list(shed) == lower[len(lower) - len(shed) :][::-1], "the newest of the lowest"
            assert not shed or queued - sum(other.rows for other in shed[:-1]) + rows > MAX_QUEUE
            for other in shed:
                assert other.state is State.SHED
                self._settle(other, "shed")
            self.waiting.append(ticket)

    @rule()
    def take(self) -> None:
        take = self.queue.take(self.now)
        for ticket in take.dropped:
            assert ticket.start_by <= self.now or ticket.item in self.left
            self._settle(ticket, "dropped")
        assert take.rows == sum(ticket.rows for ticket in take.batch) <= MAX_BATCH
        if not take.batch:
            assert not self.waiting or take.wake_at is not None
            if take.wake_at is not None:
                assert self.waiting and take.wake_at > self.now
                for ticket in self.waiting:
                    assert ticket.deadline is None or ticket.deadline > take.wake_at, "held past a deadline"
            return
        self.running.append(take)
        self._check_order(take.batch)
        for ticket in take.batch:
            assert ticket.start_by > self.now
            assert ticket.item not in self.left
            self._settle(ticket, "ran")

    def _check_order(self, batch: list[Ticket[str]]) -> None:
        key, priority = batch[0].key, min(ticket.priority for ticket in batch)
        best = min(ticket.priority for ticket in self.waiting)
        if priority > best:
            oldest = next(ticket for ticket in batch if ticket.priority == priority)
            assert oldest.arrived + 2.0 <= self.now, "only the starving go before the higher"
        for each in {ticket.priority for ticket in batch}:
            mine = [ticket for ticket in batch if ticket.priority == each]
            lane = [ticket for ticket in self.waiting if ticket.key == key and ticket.priority == each]
            assert mine == lane[: len(mine)], "FIFO within a key and a priority"
        mates = [ticket for ticket in self.waiting if ticket.key == key]
        if any(ticket.deadline is not None for ticket in self.waiting):
            return  # deadlines may make a batch smaller
        rest = sorted(
            (ticket for ticket in mates if ticket not in batch),
            key=lambda ticket: (ticket.priority, ticket.arrived),
        )
        if rest and priority == best:
            waited = sum(ticket.rows for ticket in mates)
            limit = max([size for size in PREFERRED if size <= waited], default=waited)
            head = next(ticket for ticket in self.waiting if ticket.priority == best)
            rows = sum(ticket.rows for ticket in batch)
            assert rows + rest[0].rows > max(limit, head.rows), "no batch is smaller than it could be"

    @precondition(lambda self: self.running)
    @rule(data=st.data(), failed=st.booleans())
    def run_ends(self, data: st.DataObject, failed: bool) -> None:
        take = data.draw(st.sampled_from(self.running))
        self.running.remove(take)
        self.queue.finished(take, self.now, failed=failed)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        assert self.queue.withdraw(ticket)
        self._settle(ticket, "withdrawn")

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def caller_leaves(self, data: st.DataObject) -> None:
        self.left.add(data.draw(st.sampled_from(self.waiting)).item)

    @rule(seconds=st.floats(0, 0.1) | st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_match(self) -> None:
        assert self.queue.items == len(self.waiting)
        assert self.queue.rows == sum(ticket.rows for ticket in self.waiting) <= MAX_QUEUE
        for level in self.queue._levels:
            mine = [ticket for ticket in self.waiting if ticket.priority == level.priority]
            assert (level.items, level.rows) == (len(mine), sum(ticket.rows for ticket in mine))
            assert level.newest() is (mine[-1] if mine else None)
            assert len(level._order) <= 2 * len(mine) + 64


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


@settings(max_examples=200, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.floats(0, 0.02), st.sampled_from("ab"), st.integers(1, MAX_BATCH)), max_size=40
    ),
    delay_ms=st.none() | st.floats(0, 20),
    run_s=st.floats(0, 0.03),
)
def test_nothing_is_held_longer_than_the_bound_and_all_of_it_runs(
    arrivals: list[tuple[float, str, int]], delay_ms: float | None, run_s: float
) -> None:
    """A model thread that obeys `wake_at` and `wakes` is idle for no longer than the bound while something waits."""
    queue: BatchQueue[Ticket[str]] = BatchQueue(BatchPolicy(MAX_BATCH, 10_000, delay_ms))
    bound = (run_s if delay_ms is None else delay_ms / 1e3) + 1e-9
    now, ran, free = 0.0, 0, 0.0
    running: Take[Ticket[str]] | None = None
    wake_at: float | None = None

    def serve(until: float) -> None:
        """Everything that happens without an arrival before then."""
        nonlocal running, wake_at, free, ran, now
        while True:
            if running is not None:
                if free > until:
                    return
                now = free
                queue.finished(running, now)
                running = None
            elif wake_at is not None:
                if wake_at > until:
                    return
                now = wake_at
            take = queue.take(now)
            wake_at = take.wake_at
            if take.batch:
                assert now - max(free, min(ticket.arrived for ticket in take.batch)) <= bound
                ran += len(take.batch)
                running, free = take, now + run_s
            elif wake_at is None:
                return
            else:
                assert wake_at > now

    for gap, key, rows in arrivals:
        at = now + gap if running is None and wake_at is None else max(now, 0.0) + gap
        serve(at)
        now = max(now, at)
        queue.offer(Ticket("x", rows, key), now)
        if running is None and queue.wakes:
            wake_at = None
            serve(now)
    serve(now + 100.0)
    assert ran == len(arrivals)
