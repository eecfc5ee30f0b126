"""Keeps the loaded versions of one model as its folder and its policy want them: the shell around
`libs.serving.versions`.

All decisions are made on the event loop; a loader's thread loads, while the other versions answer. A swap is one
assignment: calls that have begun end where they are, and what they leave is freed when none is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from libs.serving.version_folders import look, scan
from libs.serving.version_metrics import VersionStats
from libs.serving.versions import Found, Load, State, Unload, Versions, VersionState
from services.tf_serving.execution.engine import Engine
from services.tf_serving.model.versions import GRAPH_FILES, ModelError
from services.tf_serving.serving.grace import Grace
from services.tf_serving.serving.model_configs import ModelConfig, none_chosen
from services.tf_serving.serving.servables import Servable, Servables

log = logging.getLogger(__name__)

_SETTLE_S = 1.0
"""How long files must hold still before they are loaded."""
_LEAVE_S = 60.0
"""For calls that a version still has when it is to go; their callers' deadlines are shorter."""


@dataclass(frozen=True, slots=True)
class Watching:
    """How folders are watched.

    Attributes:
        interval_s: how often a folder is looked at; 0: only at the start.
        max_retries: how often a load that failed is tried again while the files are the same.
        retry_s: and after how long.
    """

    interval_s: float = 1.0
    max_retries: int = 5
    retry_s: float = 60.0


class Watcher:
    """Loads and unloads the versions of one model. Used on the event loop's thread.

    Args:
        load: makes an engine of a version's folder, warm; blocks. Called on a thread of `loaders`.
        changed: called after each change of what is loaded.
        clock: seconds.
    """

    def __init__(
        self,
        config: ModelConfig,
        servables: Servables,
        load: Callable[[str, int, Path], Engine],
        loaders: Executor,
        grace: Grace,
        watching: Watching,
        *,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._servables = servables
        self._make = load
        self._loaders = loaders
        self._grace = grace
        self._watching = watching
        self._changed = changed
        self._clock = clock
        self._settle_s = min(_SETTLE_S, watching.interval_s)
        self._versions = Versions(
            config.policy,
            settle_s=self._settle_s,
            retry_s=watching.retry_s,
            max_retry_s=watching.retry_s,
            max_retries=watching.max_retries,
        )
        self.stats = VersionStats(config.name, self.states)
        self._loaded: dict[int, Servable] = {}
        self._known: set[int] = set()
        self._acting = asyncio.Lock()
        self._wake = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._ended = False
        self._gone = False

    @property
    def available(self) -> bool:
        """Whether some version answers."""
        return bool(self._loaded) and not self._ended

    def states(self) -> list[VersionState]:
        """Versions that are, or were, to be loaded, ascending; others that lie in the folder are passed over."""
        return [s for s in self._versions.states() if s.state is not State.END or s.number in self._known]

    def configure(self, config: ModelConfig) -> None:
        """Serve by another policy, or from another folder, from the next look on."""
        self.config = config
        self._versions.set_policy(config.policy)

    async def refresh(self) -> None:
        """Look at the folder, whose files are whole, and load and unload until nothing is left to do; from then on
        watch."""
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._keep_watching())
        await self._look(settled=True)
        while self._leaving and self._versions.wants(self._clock()):
            await asyncio.wait(self._leaving)
            async with self._acting:
                await self._act()
        self._wake.set()  # what failed now is to be tried again

    def end(self) -> None:
        """Answer nothing and load nothing any more; unload everything."""
        self._ended = True
        self._versions.end()
        self._unload_what_is_to_go()
        self._wake.set()

    async def gone(self) -> None:
        """Wait, after `end`, until all is unloaded, also what was being loaded."""
        async with self._acting:
            self._unload_what_is_to_go()
        if self._leaving:
            await asyncio.wait(self._leaving)

    def close(self) -> None:
        """Watch no longer; what is loaded stays."""
        if self._watch is not None:
            self._watch.cancel()

    def reason(self) -> str:
        """Why no version answers."""
        errors = [state for state in self._versions.states() if state.error and state.number in self._known]
        if len(errors) == 1:
            return errors[0].error
        if errors:
            return "; ".join(f"version {state.number}: {state.error}" for state in errors)
        return str(none_chosen(self.config))

    async def _keep_watching(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._wait_s())
            self._wake.clear()
            try:
                if self._watching.interval_s and not self._ended:
                    await self._look()
                else:
                    async with self._acting:
                        await self._act()
            except Exception:  # whatever it is, the next look may go well
                log.exception("watching %s failed", self.config.base_path)

    def _wait_s(self) -> float | None:
        if not self._watching.interval_s:
            failed = any(state.error for state in self._versions.states())
            return max(self._watching.retry_s, _SETTLE_S) if failed else None
        if self._versions.unsettled(self._clock()):
            return self._settle_s / 2
        return self._watching.interval_s

    async def _look(self, *, settled: bool = False) -> None:
        async with self._acting:
            base = self.config.base_path
            try:
                # Not on a loader's thread: another model's load may take minutes.
                found = await asyncio.to_thread(scan, base, is_model=_no_model, counts=_is_content)
            except OSError as error:
                log.warning("cannot look at %s: %s; what is loaded goes on serving", base, error)
            else:
                self._tell_gone(not found)
                self._versions.observe(found, self._clock(), settled=settled)
            await self._act()

    async def _act(self) -> None:
        while (action := self._versions.next(self._clock())) is not None:
            self._known.add(action.number)
            if isinstance(action, Load):
                self._changed()
                await self._load(action)
            else:
                self._unload(action.number)
            self._changed()
        self._known &= {state.number for state in self._versions.states()}

    def _unload_what_is_to_go(self) -> None:
        """All of it; nothing is to be loaded once `end` was called."""
        while isinstance(action := self._versions.next(self._clock()), Unload):
            self._unload(action.number)
        self._changed()

    def _unload(self, number: int) -> None:
        servable = self._loaded.pop(number)
        self._servables.discard(servable)
        self._leave(servable)

    async def _load(self, action: Load) -> None:
        number, start, name = action.number, self._clock(), self.config.name
        log.info("model %s: loading version %d from %s", name, number, action.path)
        loop = asyncio.get_running_loop()
        made, after = await loop.run_in_executor(self._loaders, partial(self._attempt, number, action.path))
        now = self._clock()
        if isinstance(made, str):
            self._versions.failed(number, made, now, after)
            self.stats.failed()
            serving = ", ".join(map(str, self._servables.versions(name)))
            log.error(
                "model %s: version %d cannot be loaded, after %.1f s: %s; serving %s",
                *(name, number, now - start, made, f"on with version {serving}" if serving else "nothing"),
            )
            return
        servable = Servable(name, number, made)
        self.stats.loaded(now - start)
        self._versions.loaded(number)
        before = self._loaded.get(number)
        self._loaded[number] = servable
        if not self._ended:
            self.stats.swaps += len(self._loaded) > 1 and number == max(self._loaded)
            self._servables.set(servable)
        log.info("model %s: version %d is available after %.1f s", name, number, now - start)
        if before is not None:
            self._leave(before)

    def _attempt(self, number: int, path: Path) -> tuple[Engine | str, Found | None]:
        """The engine, or what is wrong, and how its folder looks then."""
        made: Engine | str
        try:
            made = self._make(self.config.name, number, path)
        except ModelError as error:
            made = str(error)
        except Exception as error:  # a library of operators may raise anything
            log.exception("loading %s failed", path)
            made = f"{path}: {type(error).__name__}: {error}"
        try:
            return made, look(path, _is_content)
        except OSError:
            return made, None

    def _leave(self, servable: Servable) -> None:
        task = asyncio.get_running_loop().create_task(self._free(servable))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _free(self, servable: Servable) -> None:
        start, number = self._clock(), servable.version
        try:
            left = await self._grace.passed(_LEAVE_S)
            if left:
                log.warning("model %s: %d calls do not end; version %d goes", servable.name, left, number)
            await asyncio.to_thread(servable.engine.close)
            log.info(
                "model %s: version %d unloaded after %.1f s", servable.name, number, self._clock() - start
            )
        except Exception:
            log.exception("model %s: unloading version %d failed", servable.name, number)
        finally:
            self.stats.unloaded()
            self._versions.unloaded(number)
            self._changed()
            self._wake.set()

    def _tell_gone(self, gone: bool) -> None:
        if gone and not self._gone and self._loaded:
            log.warning("%s holds no version any more; what is loaded goes on serving", self.config.base_path)
        self._gone = gone


def _no_model(folder: Path) -> bool:
    """A base path is never a version itself, as in TensorFlow Serving."""
    return False


def _is_content(name: str) -> bool:
    """Whether a change of this file makes another model. Not the fingerprint, nor what is for warm-up."""
    return name in GRAPH_FILES or name.startswith(("variables/", "assets/"))
