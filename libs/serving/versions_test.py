from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.serving.versions import (
    Found,
    Load,
    Policy,
    PolicyError,
    State,
    Unload,
    Versions,
    parse_policy,
)

SETTLE_S = 1.0
RETRY_S = 60.0


def found(number: int, stamp: int = 0, *, files: int | None = None) -> Found:
    content = frozenset({("model.pth", 1, stamp, number)})
    return Found(Path(f"/m/{number}"), content, content | {("log", 1, files or 0, 1)})


def folder(*numbers: int) -> dict[int, Found]:
    return {number: found(number) for number in numbers}


def make(policy: str = "latest", *numbers: int) -> Versions:
    """The versions of a server that came up with a folder of these, all of which loaded."""
    versions = Versions(parse_policy(policy), settle_s=SETTLE_S, retry_s=RETRY_S)
    versions.observe(folder(*numbers), 0.0, settled=True)
    run(versions, 0.0)
    return versions


def run(versions: Versions, now: float, broken: tuple[int, ...] = ()) -> list[str]:
    done = []
    while (action := versions.next(now)) is not None:
        if isinstance(action, Unload):
            done.append(f"-{action.number}")
            versions.unloaded(action.number)
        elif action.number in broken:
            done.append(f"!{action.number}")
            versions.failed(action.number, "broken", now, None)
        else:
            done.append(f"+{action.number}")
            if versions.loaded(action.number):
                versions.unloaded(action.number)
    return done


def available(versions: Versions) -> list[int]:
    return [state.number for state in versions.states() if state.state is State.AVAILABLE]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest", Policy(latest=1)),
        ("latest:3", Policy(latest=3)),
        ("all", Policy()),
        ("1,3", Policy(numbers=frozenset({1, 3}))),
        (" 7 ", Policy(numbers=frozenset({7}))),
    ],
)
def test_policies(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    "text", ["", "latest:", "latest:0", "latest:x", "newest", "1,,2", "-1", "²", str(2**63)]
)
def test_no_policies_say_what_is_expected(text: str) -> None:
    with pytest.raises(PolicyError, match="expected"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("policy", "numbers", "served"),
    [
        ("latest", (1, 2, 10), [10]),
        ("latest:2", (1, 2, 10), [2, 10]),
        ("all", (1, 2, 10), [1, 2, 10]),
        ("1,2,5", (1, 2, 10), [1, 2]),
    ],
)
def test_what_a_policy_serves(policy: str, numbers: tuple[int, ...], served: list[int]) -> None:
    assert available(make(policy, *numbers)) == served


def test_a_new_version_is_loaded_once_it_held_still_and_only_then_the_old_one_goes() -> None:
    versions = make("latest", 1)
    versions.observe(folder(1, 2), 10.0)
    assert run(versions, 10.9) == [] and versions.unsettled(10.9)
    versions.observe({1: found(1), 2: found(2, stamp=1)}, 10.9)
    assert run(versions, 11.8) == []
    versions.observe({1: found(1), 2: found(2, stamp=1)}, 11.9)
    assert run(versions, 11.9) == ["+2", "-1"] and not versions.unsettled(11.9)


def test_states_of_a_swap() -> None:
    versions = make("latest", 1)
    versions.observe(folder(1, 2), 10.0)
    assert [state.state for state in versions.states()] == [State.AVAILABLE, State.START]
    assert isinstance(versions.next(11.0), Load)
    assert [state.state for state in versions.states()] == [State.AVAILABLE, State.LOADING]
    versions.loaded(2)
    assert versions.next(11.0) == Unload(1)
    assert [state.state for state in versions.states()] == [State.UNLOADING, State.AVAILABLE]
    versions.unloaded(1)
    assert [state.state for state in versions.states()] == [State.END, State.AVAILABLE]


def test_a_broken_version_leaves_the_old_and_waits_for_a_change() -> None:
    versions = make("latest", 1)
    versions.observe(folder(1, 2), 10.0)
    assert run(versions, 11.0, broken=(2,)) == ["!2"]
    assert [(s.state, s.error) for s in versions.states()] == [(State.AVAILABLE, ""), (State.END, "broken")]
    assert run(versions, 11.0 + RETRY_S - 1) == []
    versions.observe({1: found(1), 2: found(2, stamp=1)}, 20.0)
    assert run(versions, 21.0) == ["+2", "-1"]


def test_a_broken_version_is_tried_again_ever_more_seldom() -> None:
    versions = make("latest", 1)
    versions.observe(folder(1, 2), 10.0)
    tries = [now for now in range(11, 11 + 16 * int(RETRY_S)) if run(versions, float(now), broken=(2,))]
    assert [tried - 11 for tried in tries] == [0, 60, 180, 420, 900]


def test_what_a_load_writes_itself_is_no_change() -> None:
    versions = make("latest", 1)
    versions.observe({1: found(1), 2: found(2)}, 10.0)
    assert versions.next(11.0) == Load(2, Path("/m/2"))
    versions.failed(2, "broken", 11.0, found(2, files=5))
    versions.observe({1: found(1), 2: found(2, files=5)}, 12.0)
    assert run(versions, 20.0) == []
    versions.observe({1: found(1), 2: found(2, files=6)}, 20.0)
    assert run(versions, 21.0) == ["+2", "-1"]


def test_a_copy_that_went_on_during_its_load_is_loaded_when_it_is_whole() -> None:
    versions = make("latest", 1)
    versions.observe(folder(1, 2), 10.0)
    versions.next(11.0)
    versions.failed(2, "cut short", 11.0, found(2, stamp=1))
    versions.observe({1: found(1), 2: found(2, stamp=1)}, 11.5)
    assert run(versions, 12.5) == ["+2", "-1"]


def test_at_the_start_the_next_lower_version_takes_a_broken_ones_place() -> None:
    versions = Versions(parse_policy("latest"), settle_s=SETTLE_S)
    versions.observe(folder(1, 2, 3), 0.0, settled=True)
    assert run(versions, 0.0, broken=(3,)) == ["!3", "+2"]


def test_deleting_the_newest_goes_back_to_the_one_before() -> None:
    versions = make("latest", 1, 2)
    versions.observe(folder(1), 10.0)
    assert run(versions, 10.0) == ["+1", "-2"]


@pytest.mark.parametrize("policy", ["latest", "all", "2"])
def test_an_empty_folder_stops_nothing(policy: str) -> None:
    versions = make(policy, 2)
    versions.observe({}, 10.0)
    assert run(versions, 1000.0) == [] and available(versions) == [2]


def test_changed_files_are_loaded_beside_the_old_content() -> None:
    versions = make("latest", 1)
    versions.observe({1: found(1, stamp=1)}, 10.0)
    assert versions.next(11.0) == Load(1, Path("/m/1"))
    assert available(versions) == [1]
    assert versions.loaded(1), "the old content is to be closed"
    assert versions.next(11.0) is None


def test_changed_files_that_are_broken_leave_the_old_content_and_say_so() -> None:
    versions = make("latest", 1)
    versions.observe({1: found(1, stamp=1)}, 10.0)
    assert run(versions, 11.0, broken=(1,)) == ["!1"]
    (state,) = versions.states()
    assert state.state is State.AVAILABLE and state.error == "broken"


def test_files_beside_the_content_do_not_reload() -> None:
    versions = make("latest", 1)
    versions.observe({1: found(1, files=9)}, 10.0)
    assert run(versions, 20.0) == []


def test_an_empty_version_folder_is_not_loaded() -> None:
    versions = make("latest", 1)
    versions.observe({1: found(1), 2: Found(Path("/m/2"), frozenset(), frozenset())}, 10.0)
    assert run(versions, 20.0) == []


def test_numbers_that_are_nowhere_are_told() -> None:
    (first, second) = make("1,4", 1).states()
    assert first.state is State.AVAILABLE
    assert (second.number, second.state, second.error) == (4, State.START, "there is no such folder")


def test_one_load_at_a_time_and_none_while_one_leaves() -> None:
    versions = Versions(parse_policy("all"), settle_s=SETTLE_S)
    versions.observe(folder(1, 2), 0.0, settled=True)
    assert versions.next(0.0) == Load(2, Path("/m/2")) and versions.next(0.0) is None
    versions.loaded(2)
    assert versions.next(0.0) == Load(1, Path("/m/1"))
    versions.loaded(1)
    versions.observe(folder(2, 3), 10.0)
    assert versions.next(11.0) == Load(3, Path("/m/3"))
    versions.loaded(3)
    versions.observe(folder(2, 3, 4), 11.0)
    assert versions.next(12.0) == Load(4, Path("/m/4"))


NUMBERS = st.integers(1, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NUMBERS),
        st.tuples(st.just("put broken"), NUMBERS),
        st.tuples(st.just("delete"), NUMBERS),
        st.tuples(st.just("clear"), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([1, 2, 30, 100])),
        st.tuples(st.just("look"), st.just(0)),
        st.tuples(st.just("act"), st.just(0)),
        st.tuples(st.just("end load"), st.just(0)),
        st.tuples(st.just("end unload"), st.just(0)),
    ),
    max_size=120,
)


@settings(max_examples=400, deadline=None)
@given(policy=st.sampled_from(["latest", "latest:2", "latest:3", "all", "2,4"]), steps=STEPS)
def test_whatever_happens(policy: str, steps: list[tuple[str, int]]) -> None:
    parsed = parse_policy(policy)
    versions = Versions(parsed, settle_s=SETTLE_S, retry_s=RETRY_S)
    lies: dict[int, Found] = {}
    broken: set[Found] = set()
    changed: dict[int, float] = {}
    failed: dict[Found, float] = {}
    leaving: list[int] = []
    loading: Load | None = None
    serving: set[int] = set()
    now, stamp, was_available = 0.0, 0, False
    for step, number in steps:
        stamp += 1
        if step.startswith("put"):
            lies[number] = found(number, stamp)
            changed[number] = now
            if step == "put broken":
                broken.add(lies[number])
        elif step == "delete":
            lies.pop(number, None)
        elif step == "clear":
            lies.clear()
        elif step == "wait":
            now += number
        elif step == "look":
            versions.observe(lies, now)
            seen = dict(lies)
        elif step == "act":
            action = versions.next(now)
            if isinstance(action, Load):
                assert loading is None and not leaving
                target = seen[action.number]
                assert now >= changed[action.number] + SETTLE_S or lies.get(action.number) != target
                assert now >= failed.get(target, float("-inf")) + RETRY_S or target not in failed
                loading = action
            elif isinstance(action, Unload):
                serving.remove(action.number)
                leaving.append(action.number)
        elif step == "end load" and loading is not None:
            version = target
            if version in broken:
                failed[version] = now
                versions.failed(loading.number, "broken", now, lies.get(loading.number))
            else:
                if versions.loaded(loading.number):
                    leaving.append(loading.number)
                serving.add(loading.number)
            loading = None
        elif step == "end unload" and leaving:
            versions.unloaded(leaving.pop())
        assert set(available(versions)) == serving
        assert serving or not was_available, "nothing is available any more"
        was_available = bool(serving)
        if parsed.latest is not None:
            assert len(serving) + len(leaving) + (loading is not None) <= parsed.latest + 1
