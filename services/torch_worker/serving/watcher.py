"""Keeps the loaded versions as the folder and the policy want them: the shell around `libs.serving.versions`.

All decisions and all changes of the repository are made on the event loop; one thread of its own looks at the folder
and loads, one version at a time, while the others answer requests. A swap is one assignment in the repository:
requests that have begun end where they are, and the version that they leave is closed when none is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from libs.serving.version_folders import look, scan
from libs.serving.version_metrics import VersionStats
from libs.serving.versions import Action, Found, Load, Policy, Versions
from services.torch_worker.config import ConfigError
from services.torch_worker.model.directory import enter_directory
from services.torch_worker.model.folder import is_model_folder
from services.torch_worker.serving.repository import Repository
from services.torch_worker.serving.servable import Servable
from services.torch_worker.serving.version_check import is_content

R = TypeVar("R")

log = logging.getLogger(__name__)

# How long files must hold still before they are loaded.
_SETTLE_S = 1.0
# Requests that a version still has when another takes over; their callers' deadlines are shorter.
_LEAVE_S = 60.0
_CLOSE_S = 5.0
_POLL_S = 0.02


class Watcher:
    """Loads and unloads the versions of one model.

    Args:
        folder: the model folder, or a folder of versions.
        load: makes a servable of a version's folder; blocks. Called on a thread of its own.
        interval_s: how often the folder is looked at; 0: only at the start.
        changed: called on the event loop after each change of what is loaded.
        clock: seconds.
    """

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        repository: Repository,
        load: Callable[[Path], Servable],
        *,
        interval_s: float,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._repository = repository
        self._make = load
        self._interval_s = interval_s
        self._settle_s = min(_SETTLE_S, interval_s)
        self._changed = changed
        self._clock = clock
        self._versions = Versions(policy, settle_s=self._settle_s)
        self.stats = VersionStats(repository.name, self._versions.states)
        repository.tell_states(self._versions.states)
        self._thread = ThreadPoolExecutor(1, "loader")
        self._task: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._paths: dict[int, Path] = {}
        self._gone = False
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Load what is to be served, and begin to watch.

        Raises:
            ConfigError: nothing can be served; says why.
        """
        self._versions.observe(await self._scan(), self._clock(), settled=True)
        await self._act()
        if not self._repository.versions():
            raise ConfigError(self._reason())
        if self._interval_s:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Watch no longer, and see the versions that are leaving off."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_CLOSE_S)

    async def _watch(self) -> None:
        while True:
            wait_s = self._settle_s / 2 if self._versions.unsettled(self._clock()) else self._interval_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)
            self._wake.clear()
            try:
                found = await self._scan()
                self._tell_gone(not found)
                self._versions.observe(found, self._clock())
                self._changed()
                await self._act()
            except OSError as error:
                log.warning("cannot look at %s: %s; what is loaded goes on serving", self._folder, error)
            except Exception:  # whatever it is, the next look may go well
                log.exception("watching %s failed", self._folder)

    async def _act(self) -> None:
        action: Action | None
        while (action := self._versions.next(self._clock())) is not None:
            if isinstance(action, Load):
                await self._load(action)
            else:
                former = self._repository.default()
                servable = self._repository.remove(action.number)
                self.stats.swaps += former is servable
                del former
                self._paths.pop(action.number, None)
                self._swapped()
                self._leave(action.number, servable)

    async def _load(self, action: Load) -> None:
        number, start = action.number, self._clock()
        log.info("version %d: loading from %s", number, action.path)
        made, after = await self._on_thread(partial(self._attempt, action.path))
        now = self._clock()
        if isinstance(made, str):
            self._versions.failed(number, made, now, after)
            self.stats.failed()
            serving = ", ".join(map(str, self._repository.versions()))
            log.error(
                "version %d cannot be loaded, after %.1f s: %s; serving %s",
                number,
                now - start,
                made,
                f"on with version {serving}" if serving else "nothing yet",
            )
            self._changed()
            return
        self.stats.loaded(now - start)
        self._versions.loaded(number)
        former = self._repository.default() if self._repository.versions() else None
        before = self._repository.set(made, number)
        self.stats.swaps += former is not None and self._repository.default() is not former
        del former
        self._paths[number] = action.path
        log.info(
            "version %d: available after %.1f s; %s answers by default",
            number,
            now - start,
            self._repository.default().version,
        )
        self._swapped()
        if before is not None:
            self._leave(number, before)

    def _swapped(self) -> None:
        versions = self._repository.versions()
        if versions:
            with contextlib.suppress(OSError):  # its folder may be gone; it needs none to go on
                enter_directory(self._paths[versions[-1]])
        self._changed()

    def _leave(self, number: int, servable: Servable) -> None:
        task = asyncio.get_running_loop().create_task(self._unload(number, servable))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _unload(self, number: int, servable: Servable) -> None:
        start = self._clock()
        try:
            while servable.in_flight and self._clock() < start + _LEAVE_S:
                await asyncio.sleep(_POLL_S)
            left = servable.in_flight
            ended = await servable.close(_CLOSE_S)
            await asyncio.sleep(_POLL_S)  # requests that were failed now leave
            if ended and not servable.in_flight:
                servable.release()
                log.info("version %d: unloaded after %.1f s", number, self._clock() - start)
            else:
                log.warning(
                    "version %d: a model call does not end; its memory is lost (%d requests)", number, left
                )
        except Exception:
            log.exception("unloading version %d failed", number)
        finally:
            self.stats.unloaded()
            self._versions.unloaded(number)
            self._changed()
            self._wake.set()

    def _attempt(self, path: Path) -> tuple[Servable | str, Found | None]:
        """The servable, or what is wrong, and how its folder looks then."""
        try:
            os.getcwd()
        except OSError:  # it was the folder of a version, and was deleted
            os.chdir("/")
        made: Servable | str
        try:
            made = self._make(path)
        except ConfigError as error:
            made = str(error)
        except BaseException as error:  # the folder's code may raise anything, and call sys.exit()
            log.error("loading %s failed", path, exc_info=True)
            made = f"{path}: {type(error).__name__}: {error}"
        try:
            return made, look(path, is_content)
        except OSError:
            return made, None

    async def _scan(self) -> dict[int, Found]:
        return await self._on_thread(lambda: scan(self._folder, is_model=is_model_folder, counts=is_content))

    async def _on_thread(self, function: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def _tell_gone(self, gone: bool) -> None:
        if gone and not self._gone:
            log.warning("%s holds no version any more; what is loaded goes on serving", self._folder)
        self._gone = gone

    def _reason(self) -> str:
        states = [state for state in self._versions.states() if state.error]
        itself = is_model_folder(self._folder)
        if itself and [state.number for state in states] == [1]:
            return str(states[0].error)
        errors = [f"version {state.number}: {state.error}" for state in states]
        if errors and itself:
            errors.append(f"{self._folder} is a model itself, which is version 1")
        if errors:
            return "; ".join(errors)
        return f"{self._folder}: no version can be served; expected a model there, or folders such as {self._folder}/1"
