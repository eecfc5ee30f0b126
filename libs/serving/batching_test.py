"""Properties of the pure batch queue."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from libs.serving.batching import BatchPolicy, BatchQueue, State, Ticket
from libs.serving.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted

MAX_BATCH = 5
MAX_QUEUE = 12


def _queue(**policy: float) -> BatchQueue[Ticket[str]]:
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


def test_a_lone_request_runs_at_once_whatever_the_delay() -> None:
    queue = _queue(max_delay_ms=1000)
    _offer(queue, "lone", 1.0)
    take = queue.take(1.0)
    assert _names(take.batch) == ["lone"]
    queue.finished(1, 1.1)
    _offer(queue, "next lone", 1.1)
    assert _names(queue.take(1.1).batch) == ["next lone"]


def test_company_is_waited_for_no_longer_than_the_delay() -> None:
    queue = _queue(max_delay_ms=10)
    _offer(queue, "a", 1.0)
    _offer(queue, "b", 1.002)
    take = queue.take(1.003)
    assert take.batch == []
    assert take.wake_at == pytest.approx(1.010)
    assert _names(queue.take(1.0101).batch) == ["a", "b"]


def test_after_a_batch_of_several_the_next_request_waits_for_the_others() -> None:
    queue = _queue(max_delay_ms=10)
    queue.finished(3, 1.0)
    _offer(queue, "soon", 1.001)
    assert queue.take(1.001).wake_at == pytest.approx(1.011)
    queue = _queue(max_delay_ms=10)
    queue.finished(3, 1.0)
    _offer(queue, "much later", 2.0)
    assert _names(queue.take(2.0).batch) == ["much later"]


def test_a_full_batch_does_not_wait() -> None:
    queue = _queue(max_delay_ms=1000)
    for name in "abcde":
        _offer(queue, name)
    assert _names(queue.take(0).batch) == list("abcde")


def test_a_request_is_not_held_past_its_deadline() -> None:
    queue = _queue(max_delay_ms=100)
    _offer(queue, "urgent", 1.0, deadline=1.05)
    _offer(queue, "other", 1.0)
    assert _names(queue.take(1.0).batch) == ["urgent", "other"]


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
    assert len(queue._order) < 300
    assert sum(len(lane.tickets) for lane in queue._lanes.values()) < 300
    assert _names(queue.take(0).batch) == ["stays"]
    assert first.state is State.TAKEN
    assert not queue._order
    assert not queue._lanes


def test_a_key_whose_requests_always_expire_leaves_nothing_behind() -> None:
    queue = _queue()
    for number in range(1000):
        _offer(queue, "expires", number, key="a", deadline=number + 0.5)
        _offer(queue, "runs", number, key="b")
        assert _names(queue.take(number + 0.6).batch) == ["runs"]
    assert not queue._order
    assert not queue._lanes


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
    ],
)
def test_a_policy_says_what_is_wrong_with_it(fields: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        BatchPolicy(**fields)  # type: ignore[arg-type]


class QueueMachine(RuleBasedStateMachine):
    """Any history of offers, takes and departures, against a plain list as the model."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = _queue()
        self.now = 0.0
        self.waiting: list[Ticket[str]] = []
        self.outcomes: dict[str, str] = {}
        self.left: set[str] = set()
        self.count = 0

    def _settle(self, ticket: Ticket[str], outcome: str) -> None:
        assert ticket.item not in self.outcomes, "a second outcome"
        self.outcomes[ticket.item] = outcome
        self.waiting.remove(ticket)

    @rule(
        rows=st.integers(0, MAX_BATCH + 1), key=st.sampled_from("abc"), patience=st.none() | st.floats(-1, 5)
    )
    def offer(self, rows: int, key: str, patience: float | None) -> None:
        self.count += 1
        ticket: Ticket[str] = Ticket(
            str(self.count), rows, key, None if patience is None else self.now + patience
        )
        ticket.cancelled = lambda: ticket.item in self.left
        queued = sum(other.rows for other in self.waiting)
        try:
            self.queue.offer(ticket, self.now)
        except InvalidArgument:
            assert not 1 <= rows <= MAX_BATCH
        except DeadlineExceeded:
            assert ticket.deadline is not None
            assert ticket.deadline <= self.now
        except ResourceExhausted:
            assert queued + rows > MAX_QUEUE
        else:
            self.waiting.append(ticket)

    @rule()
    def take(self) -> None:
        take = self.queue.take(self.now)
        for ticket in take.dropped:
            late = ticket.deadline is not None and ticket.deadline <= self.now
            assert late or ticket.item in self.left
            self._settle(ticket, "dropped")
        assert take.rows == sum(ticket.rows for ticket in take.batch) <= MAX_BATCH
        if not take.batch:
            assert not self.waiting
            return
        key = take.batch[0].key
        assert take.batch[0] is self.waiting[0], "the oldest head goes first"
        same_key = [ticket for ticket in self.waiting if ticket.key == key]
        assert take.batch == same_key[: len(take.batch)], "FIFO within a key"
        for ticket in take.batch:
            assert ticket.deadline is None or ticket.deadline > self.now
            assert ticket.item not in self.left
            self._settle(ticket, "ran")
        rest = same_key[len(take.batch) :]
        assert not rest or take.rows + rest[0].rows > MAX_BATCH, "no batch is smaller than it could be"

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

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_match(self) -> None:
        assert self.queue.items == len(self.waiting)
        assert self.queue.rows == sum(ticket.rows for ticket in self.waiting) <= MAX_QUEUE
        assert len(self.queue._order) <= 2 * len(self.waiting) + 64


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@settings(max_examples=200, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.floats(0, 0.02), st.sampled_from("ab"), st.integers(1, MAX_BATCH)), max_size=30
    ),
    delay_ms=st.floats(0, 50),
)
def test_with_a_delay_nothing_is_held_longer_and_all_of_it_runs(
    arrivals: list[tuple[float, str, int]], delay_ms: float
) -> None:
    """A model thread that obeys `wake_at` and whose runs take no time serves every item within the delay."""
    queue: BatchQueue[Ticket[str]] = BatchQueue(BatchPolicy(MAX_BATCH, 10_000, delay_ms))
    now, wake_at, ran = 0.0, None, 0

    def serve(until: float) -> None:
        nonlocal now, wake_at, ran
        while True:
            take = queue.take(now)
            for ticket in take.batch:
                assert now - ticket.arrived <= delay_ms / 1e3 + 1e-9
            if take.batch:
                ran += len(take.batch)
                queue.finished(len(take.batch), now)
            elif take.wake_at is not None and take.wake_at <= until:
                assert take.wake_at > now
                now = take.wake_at
            else:
                return

    for gap, key, rows in arrivals:
        serve(now + gap)
        now += gap
        queue.offer(Ticket("x", rows, key), now)
        serve(now)
    serve(now + 1.0)
    assert ran == len(arrivals)
