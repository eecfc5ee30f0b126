from __future__ import annotations

from services.gateway.supervisor_link import EnvoyState, Link
from services.gateway.supervisor_place import Backoff


def test_messages_keep_their_bounds_and_the_end_is_noticed() -> None:
    one, other = Link.pair()
    assert other.receive() == []
    one.send({"a": 1})
    one.send_state(EnvoyState(7, live=True))
    received = other.receive()
    assert received is not None
    assert received[0] == {"a": 1}
    assert EnvoyState(**received[1]["envoy"]) == EnvoyState(7, live=True)
    one.send({"last": True})
    one.close()
    assert other.receive() == [{"last": True}]
    assert other.receive() is None
    other.send({"nobody": "listens"})
    other.close()


def test_a_side_that_does_not_read_blocks_nobody() -> None:
    one, other = Link.pair()
    for number in range(10_000):
        one.send({"alive_s": number})
    received = other.receive()
    assert received
    assert received[0] == {"alive_s": 0}
    one.close()
    other.close()


def test_pauses_grow_with_ends_that_follow_each_other_and_are_forgotten() -> None:
    now = 0.0
    backoff = Backoff(lambda: now)
    pauses = []
    for _ in range(8):
        pauses.append(backoff.ended())
        now += 1
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff.ends == 8
    now += 61
    assert backoff.ended() == 0.1
