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


def test_what_a_load_writes_itself_is_no_change_before_the_next_look_either() -> None:
    versions = make("latest", 1)
    versions.observe({1: found(1), 2: found(2)}, 10.0)
    assert versions.next(11.0) == Load(2, Path("/m/2"))
    versions.failed(2, "broken", 11.0, found(2, files=5))
    assert run(versions, 11.0) == []


def test_retries_have_an_end_until_the_files_change() -> None:
    versions = Versions(parse_policy("latest"), settle_s=0.0, retry_s=10.0, max_retry_s=10.0, max_retries=2)
    versions.observe(folder(1), 0.0)
    assert [now for now in range(100) if run(versions, float(now), broken=(1,))] == [0, 10, 20]
    versions.observe({1: found(1, stamp=1)}, 100.0)
    assert [now for now in range(100, 200) if run(versions, float(now), broken=(1,))] == [100, 110, 120]
    versions.observe({1: found(1, stamp=2)}, 200.0)
    assert run(versions, 200.0) == ["+1"]


@pytest.mark.parametrize(
    ("before", "after", "done"),
    [
        ("1,2", "2", ["-1"]),
        ("1", "2", ["+2", "-1"]),
        ("latest", "latest:2", ["+2"]),
        ("all", "latest", ["-1", "-2"]),
        ("3", "7", []),  # what is nowhere takes no place
    ],
)
def test_another_policy_changes_what_is_loaded(before: str, after: str, done: list[str]) -> None:
    versions = make(before, 1, 2, 3)
    versions.set_policy(parse_policy(after))
    assert run(versions, 1.0) == done
    assert run(versions, 2.0) == []


def test_what_waits_for_an_unload_is_wanted() -> None:
    versions = make("latest", 1)
    versions.observe(folder(1, 2), 10.0)
    assert not versions.wants(10.5)  # its files may still change
    versions.next(11.0)
    versions.loaded(2)
    assert versions.next(11.0) == Unload(1)
    assert not versions.wants(11.0)
    versions.observe(folder(1, 2, 3), 11.0, settled=True)
    assert versions.next(11.0) is None and versions.wants(11.0)
    versions.unloaded(1)
    assert run(versions, 11.0) == ["+3", "-2"]
    assert not versions.wants(11.0)


def test_the_end_unloads_everything_also_what_is_being_loaded() -> None:
    versions = make("all", 1, 2)
    versions.observe(folder(1, 2, 3), 10.0)
    assert versions.next(11.0) == Load(3, Path("/m/3"))
    versions.end()
    assert run(versions, 11.0) == ["-1", "-2"]
    versions.loaded(3)
    assert run(versions, 11.0) == ["-3"]
    versions.observe(folder(1, 2, 3, 4), 20.0)
    assert run(versions, 100.0) == []
    assert {state.state for state in versions.states()} == {State.END}


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
    versions = Versions(parse_policy("latest:2"), settle_s=SETTLE_S)
    versions.observe(folder(1, 2), 0.0, settled=True)
    assert versions.next(0.0) == Load(2, Path("/m/2")) and versions.next(0.0) is None
    versions.loaded(2)
    assert run(versions, 0.0) == ["+1"]
    versions.observe(folder(1, 2, 3, 4), 10.0)
    assert versions.next(11.0) == Load(4, Path("/m/4"))
    versions.loaded(4)
    assert versions.next(11.0) == Unload(1)
    assert versions.next(11.0) is None, "3 waits for the memory of 1"
    versions.unloaded(1)
    assert versions.next(11.0) == Load(3, Path("/m/3"))


NUMBERS = st.integers(1, 5)
# What happens to the folder and the clock, and, most of the time, the shell's next move.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "put", "put broken", "delete", "clear"]), NUMBERS),
        st.tuples(st.just("wait"), st.sampled_from([1, 2, 30, 100])),
        *[st.tuples(st.sampled_from(["turn", "look", "act", "end load", "end unload"]), st.just(2))] * 2,
        *[st.tuples(st.just("turn"), st.just(2))] * 2,
    ),
    min_size=20,
    max_size=100,
)


class World:
    """A folder, and a server whose loads end as the folder's content says; checks what it is told to do."""

    def __init__(self, policy: str) -> None:
        self.policy = parse_policy(policy)
        self.versions = Versions(self.policy, settle_s=SETTLE_S, retry_s=RETRY_S)
        self.now = 0.0
        self.lies: dict[int, Found] = {}
        self.seen: dict[int, Found] = {}
        self.put_at: dict[Found, float] = {}
        self.broken: set[Found] = set()
        self.failed_at: dict[Found, float] = {}
        self.loading: Found | None = None
        self.number = 0
        self.serving: set[int] = set()
        self.leaving: list[int] = []

    def step(self, what: str, number: int, stamp: int) -> None:
        if what.startswith("put"):
            version = self.lies[number] = found(number, stamp)
            self.put_at[version] = self.now
            if what == "put broken":
                self.broken.add(version)
        elif what == "delete":
            self.lies.pop(number, None)
        elif what == "clear":
            self.lies.clear()
        elif what == "wait":
            self.now += number
        elif what == "turn":
            self.end_load()
            self.end_unload()
            self.look()
            self.now += number
            self.act()
        else:
            {"look": self.look, "act": self.act, "end load": self.end_load, "end unload": self.end_unload}[
                what
            ]()

    def look(self) -> None:
        self.versions.observe(self.lies, self.now)
        self.seen = dict(self.lies)

    def act(self) -> None:
        action = self.versions.next(self.now)
        if isinstance(action, Load):
            assert self.loading is None and not self.leaving, "one copy more than are served, at most"
            self.loading, self.number = self.seen[action.number], action.number
            assert self.now >= self.put_at[self.loading] + SETTLE_S, "it may still be written"
            if self.loading in self.failed_at:
                assert self.now >= self.failed_at[self.loading] + RETRY_S, "the same broken files again"
        elif isinstance(action, Unload):
            self.serving.remove(action.number)
            self.leaving.append(action.number)

    def end_load(self) -> None:
        if self.loading is None:
            return
        if self.loading in self.broken:
            self.failed_at[self.loading] = self.now
            self.versions.failed(self.number, "broken", self.now, self.lies.get(self.number))
        else:
            if self.versions.loaded(self.number):
                self.leaving.append(self.number)
            self.serving.add(self.number)
        self.loading = None

    def end_unload(self) -> None:
        if self.leaving:
            self.versions.unloaded(self.leaving.pop())


@settings(max_examples=400, deadline=None, derandomize=True)
@given(policy=st.sampled_from(["latest", "latest:2", "latest:3", "all", "2,4"]), steps=STEPS)
def test_whatever_happens(policy: str, steps: list[tuple[str, int]]) -> None:
    world = World(policy)
    was_available = False
    for stamp, (what, number) in enumerate(steps):
        world.step(what, number, stamp)
        assert set(available(world.versions)) == world.serving
        assert world.serving or not was_available, "nothing is available any more"
        was_available = bool(world.serving)
        copies = len(world.serving) + len(world.leaving) + (world.loading is not None)
        assert world.policy.latest is None or copies <= world.policy.latest + 1
