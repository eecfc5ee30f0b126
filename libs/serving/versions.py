"""Which versions of a model are to be loaded and unloaded: a pure core, told what a folder holds and what loads did.

The shell looks at the folder (`version_folders`), reports what it found (`observe`), asks what to do (`next`), does it,
and reports what came of it (`loaded`, `failed`, `unloaded`). Rules, all of which hold for a version that is loaded anew
because its files changed as well:

- A version is loaded beside what serves, and what it replaces is unloaded only once it is available. So something is
  available always, once anything was, and memory must hold one version more than are served.
- A version whose files still change is being copied: it is left alone until they held still for `settle_s`.
- A version that cannot be loaded is tried again when its files have changed, and else seldom. Meanwhile the next lower
  one takes its place under `latest`, so that a server started anew serves what one that ran on would.
- A folder that is gone or empty changes nothing: what is loaded goes on serving.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

MAX_VERSION = 2**63 - 1
"""Version numbers are int64 on the wire of TensorFlow Serving."""

Fingerprint = frozenset[tuple[str, int, int, int]]
"""Files by name, size in bytes, modification time in ns, and inode."""


class PolicyError(ValueError):
    """A version policy cannot be read; the message says what is expected."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which versions are served: the newest few, or those of some numbers, or, with neither, all.

    Attributes:
        latest: how many of the highest numbers.
        numbers: which numbers.
    """

    latest: int | None = None
    numbers: frozenset[int] | None = None


def parse_policy(text: str) -> Policy:
    """The policy written as `latest`, `latest:N`, `all`, or numbers, `1,3`.

    Raises:
        PolicyError: it is none of these.
    """
    word, colon, count = text.strip().partition(":")
    if word == "latest" and not colon:
        return Policy(latest=1)
    if word == "latest":
        if _is_number(count) and int(count) > 0:
            return Policy(latest=int(count))
        raise PolicyError(f"{text!r}: expected a number of versions from 1 after latest:, such as latest:2")
    if text.strip() == "all":
        return Policy()
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not _is_number(part) or int(part) > MAX_VERSION:
            raise PolicyError(
                f"{part!r} is no version policy: expected latest, latest:N, all, or version numbers such as 1,3"
            )
    return Policy(numbers=frozenset(map(int, parts)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


class State(Enum):
    """TensorFlow Serving's states of a version (ModelVersionStatus.State), with its numbers."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class VersionState:
    """What is to be said of a version.

    Attributes:
        error: why it could not be loaded, or, when it is available, why its newer files could not; "" if all is well.
    """

    number: int
    state: State
    error: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A version as it lies in the folder.

    Attributes:
        content: the files that make another model when they change; empty while there are none.
        files: all files, which have to hold still before a load, and whose change is worth another try.
    """

    path: Path
    content: Fingerprint
    files: Fingerprint


@dataclass(frozen=True, slots=True)
class Load:
    """Load what lies at path as the version number; if that is loaded already, beside it, to take its place."""

    number: int
    path: Path


@dataclass(frozen=True, slots=True)
class Unload:
    """Stop giving requests to the version, and unload it when those it has are answered."""

    number: int


Action = Load | Unload


@dataclass(slots=True)
class _Record:
    """What is known of a version.

    Attributes:
        serving: what was loaded that is available.
        loading: what is being loaded.
        leaving: copies being unloaded.
        failed: the files of the last load, which failed.
        still_since: when the files were first seen as they are now.
    """

    serving: Fingerprint | None = None
    loading: Found | None = None
    leaving: int = 0
    failed: Fingerprint | None = None
    failures: int = 0
    retry_at: float = 0.0
    error: str = ""
    still_since: float = 0.0


class Versions:
    """The versions of one model.

    Args:
        settle_s: how long files must have held still before they are loaded.
        retry_s: when a load that failed is tried again although its files did not change; doubles with each failure.
        max_retry_s: and so far at most.
        max_retries: how often that is done; None: for ever.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        settle_s: float,
        retry_s: float = 60.0,
        max_retry_s: float = 1800.0,
        max_retries: int | None = None,
    ) -> None:
        self._policy = policy
        self._settle_s = settle_s
        self._retry_s = retry_s
        self._max_retry_s = max_retry_s
        self._max_retries = max_retries
        self._ended = False
        self._found: dict[int, Found] = {}
        self._records: dict[int, _Record] = {}

    def set_policy(self, policy: Policy) -> None:
        """Serve by another policy from now on; `next` says what that takes."""
        self._policy = policy

    def end(self) -> None:
        """Want nothing any more: from now on `next` only unloads."""
        self._ended = True

    def observe(self, found: Mapping[int, Found], now: float, *, settled: bool = False) -> None:
        """The folder holds these versions now; settled: they are whole, whenever they were written."""
        for number, version in found.items():
            record = self._records.setdefault(number, _Record())
            before = self._found.get(number)
            if settled:
                record.still_since = now - self._settle_s
            elif before is None or before.files != version.files or before.path != version.path:
                record.still_since = now
        self._found = dict(found)
        for number, record in list(self._records.items()):
            if number not in found and record.serving is None and record.loading is None:
                if record.leaving:
                    record.failed, record.error = None, ""
                else:
                    del self._records[number]

    def next(self, now: float) -> Action | None:
        """What to do now; None: nothing, until more is observed or reported. A load that is answered has begun."""
        desired = () if self._ended else self._desired(now)
        serving = sorted(number for number, record in self._records.items() if record.serving is not None)
        # As many stay as are desired, also while those that are to take their places are not available yet.
        if (desired or self._ended) and len(serving) > len(desired):
            for number in serving:
                record = self._records[number]
                if number not in desired and record.loading is None:
                    record.serving = None
                    record.leaving += 1
                    return Unload(number)
        if not any(record.loading or record.leaving for record in self._records.values()):
            for number in desired:
                if self._loadable(number, now):
                    version = self._found[number]
                    self._records[number].loading = version
                    return Load(number, version.path)
        return None

    def loaded(self, number: int) -> bool:
        """The load of a version succeeded; whether it takes the place of one, whose unloading then begins."""
        record = self._records[number]
        assert record.loading is not None
        replaces = record.serving is not None
        record.leaving += replaces
        record.serving, record.loading = record.loading.content, None
        record.failed, record.failures, record.error = None, 0, ""
        return replaces

    def failed(self, number: int, error: str, now: float, after: Found | None) -> None:
        """The load of a version failed; after: as it lies there since, with what the load itself may have written."""
        record = self._records[number]
        before, record.loading = record.loading, None
        assert before is not None
        whole = after is not None and after.content == before.content and after.path == before.path
        if record.failed != before.files:  # other files than those that failed before
            record.failures = 0
        record.failed = before.files
        if after is not None and whole:
            record.failed = after.files
            if (
                number in self._found
            ):  # else the next `next`, before the next look, would take them for a change
                self._found[number] = after
        record.error = error
        record.retry_at = now + min(self._retry_s * 2 ** min(record.failures, 32), self._max_retry_s)
        if self._max_retries is not None and record.failures >= self._max_retries:
            record.retry_at = math.inf
        record.failures += 1

    def unloaded(self, number: int) -> None:
        """A copy of a version is gone."""
        self._records[number].leaving -= 1

    def wants(self, now: float) -> bool:
        """Whether something is to be loaded, now or once what is being loaded or unloaded is."""
        return not self._ended and any(self._loadable(number, now) for number in self._desired(now))

    def unsettled(self, now: float) -> bool:
        """Whether some version waits for its files to hold still."""
        return any(
            now < self._records[number].still_since + self._settle_s and self._is_new(number)
            for number in self._wanted()
        )

    def states(self) -> list[VersionState]:
        """All versions that are known, ascending; those that the policy names and that are nowhere too."""
        missing = (self._policy.numbers or frozenset()) - self._records.keys()
        states = [VersionState(number, State.START, "there is no such folder") for number in missing]
        for number, record in self._records.items():
            states.append(VersionState(number, self._state(number, record), record.error))
        return sorted(states, key=lambda state: state.number)

    def _state(self, number: int, record: _Record) -> State:
        if record.serving is not None:
            return State.AVAILABLE
        if record.loading is not None:
            return State.LOADING
        if record.leaving:
            return State.UNLOADING
        chosen = number in self._wanted()[: self._policy.latest] and not self._ended
        return State.START if chosen and not record.error else State.END

    def _wanted(self) -> list[int]:
        """Numbers in the folder that the policy may choose from, descending."""
        numbers = self._policy.numbers
        return sorted((n for n in self._found if numbers is None or n in numbers), reverse=True)

    def _desired(self, now: float) -> Sequence[int]:
        """Numbers that are to be available, descending."""
        able: Iterable[int] = (
            number
            for number in self._wanted()
            if self._records[number].serving is not None
            or self._records[number].loading is not None
            or self._loadable(number, now)
        )
        return list(able)[: self._policy.latest]

    def _is_new(self, number: int) -> bool:
        """Whether the folder holds something that is not loaded and did not fail."""
        found, record = self._found[number], self._records[number]
        return bool(found.content) and found.content != record.serving and found.files != record.failed

    def _loadable(self, number: int, now: float) -> bool:
        found, record = self._found[number], self._records[number]
        if not found.content or found.content == record.serving or record.loading is not None:
            return False
        if now < record.still_since + self._settle_s:
            return False
        return found.files != record.failed or now >= record.retry_at
