"""The models of a server: those of its configuration, which may change while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prometheus_client.core import Metric

from libs.serving.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, ServingError
from libs.serving.versions import VersionState
from services.tf_serving.execution.engine import Engine
from services.tf_serving.model.versions import ModelError
from services.tf_serving.serving import model_configs
from services.tf_serving.serving.grace import Grace
from services.tf_serving.serving.model_configs import ConfigError, ModelConfig
from services.tf_serving.serving.servables import Servables
from services.tf_serving.serving.watcher import Watcher, Watching

log = logging.getLogger(__name__)

_RELOAD_S = 600.0
"""How long a reload waits for what it adds; what loads then goes on loading."""
_FORMER = 64
"""Models that were removed whose last states are told."""


class Models:
    """Loads what is configured and keeps it so. Used on the event loop's thread.

    Args:
        load: makes an engine of (a model's name, a version's number, its folder), warm; blocks.
        servables: what requests see; changed here alone.
        grace: knows the calls in flight.
        load_threads: loads at a time, of different models.
        new_labels_anywhere: a label that is not in use may be given to a version that is not available.
        changed: called after each change of what is loaded.
    """

    def __init__(
        self,
        load: Callable[[str, int, Path], Engine],
        servables: Servables,
        grace: Grace,
        watching: Watching,
        *,
        load_threads: int = 1,
        new_labels_anywhere: bool = False,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._servables = servables
        self._grace = grace
        self._watching = watching
        self._new_labels_anywhere = new_labels_anywhere
        self._changed = changed
        self._loaders = ThreadPoolExecutor(load_threads, "loader")
        self._watchers: dict[str, Watcher] = {}
        self._former: OrderedDict[str, Watcher] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._polling: asyncio.Task[None] | None = None
        servables.tell_states(self.states)

    def states(self, name: str) -> Sequence[VersionState]:
        """The versions of a model that are, or were, to be loaded, ascending."""
        watcher = self._watchers.get(name) or self._former.get(name)
        return watcher.states() if watcher is not None else []

    def availability(self) -> dict[str, bool]:
        """Whether each configured model can answer."""
        return {name: watcher.available for name, watcher in self._watchers.items()}

    def collect(self) -> Iterable[Metric]:
        """Metrics of all models' versions; called by the registry."""
        families: dict[str, Metric] = {}
        for watcher in self._watchers.values():
            for family in watcher.stats.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples += family.samples
        return families.values()

    async def start(self, configs: Sequence[ModelConfig]) -> None:
        """Load everything, and begin to watch.

        Raises:
            ModelError: a model has no version that can be loaded, or a label no version; says which and why.
        """
        self._watchers = {config.name: self._watcher(config) for config in configs}
        await asyncio.gather(*(watcher.refresh() for watcher in self._watchers.values()))
        missing = [(name, watcher) for name, watcher in self._watchers.items() if not watcher.available]
        if missing:
            reasons = [f"model {name}: {watcher.reason()}" for name, watcher in missing]
            raise ModelError(missing[0][1].reason() if len(configs) == 1 else "\n".join(reasons))
        try:
            self._set_labels(configs)
        except FailedPrecondition as error:
            raise ModelError(
                f"{error.message}; --allow-version-labels-for-unavailable-models lets it be"
            ) from error

    async def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Serve these models from now on; returns when those that are new, or have changed, are loaded.

        Raises:
            FailedPrecondition: a label is to name a version that is not available; nothing has changed.
            ServingError: a new model could not be loaded; what can be served of these models is.
            DeadlineExceeded: loading takes long; it goes on.
        """
        self._set_labels(configs)
        wanted = {config.name: config for config in configs}
        for name in [name for name in self._watchers if name not in wanted]:
            self._remove(name)
        new = [name for name in wanted if name not in self._watchers]
        refreshed = []
        for name, config in wanted.items():
            watcher = self._watchers.get(name)
            if watcher is None:
                watcher = self._watchers[name] = self._watcher(config)
                self._former.pop(name, None)
            elif (watcher.config.base_path, watcher.config.policy) == (config.base_path, config.policy):
                continue
            watcher.configure(config)
            refreshed.append(self._background(watcher.refresh()))
        self._changed()
        if refreshed:
            _, pending = await asyncio.wait(refreshed, timeout=_RELOAD_S)
            if pending:
                raise DeadlineExceeded(f"models are still being loaded after {_RELOAD_S:g} s")
        failed = [self._watchers[name] for name in new if name in self._watchers]
        failed = [watcher for watcher in failed if not watcher.available]
        if failed:
            told = ", ".join(f"{{name: {watcher.config.name}: {watcher.reason()}}}" for watcher in failed)
            raise ServingError(f"Some models did not become available: {{{told}}}")

    async def reload_message(self, message: object) -> None:
        """`reload` of a ModelServerConfig message. Raises also InvalidArgument: it cannot be; nothing has changed."""
        try:
            configs = model_configs.from_message(message)
        except ConfigError as problem:
            raise InvalidArgument(problem.message) from problem
        await self.reload(configs)

    def follow(self, file: Path, interval_s: float, read: Sequence[ModelConfig]) -> None:
        """Look at a configuration file again and again, and serve what it says when that is other than what was read
        last. What cannot be read, or cannot be, is logged once, and tried again."""
        self._polling = asyncio.get_running_loop().create_task(self._follow(file, interval_s, tuple(read)))

    async def stop(self) -> None:
        """Begin nothing any more; what is loaded stays."""
        for task in (self._polling, *self._tasks):
            if task is not None:
                task.cancel()
        for watcher in self._watchers.values():
            watcher.close()
        self._loaders.shutdown(wait=False, cancel_futures=True)

    def _watcher(self, config: ModelConfig) -> Watcher:
        return Watcher(
            config,
            self._servables,
            self._load,
            self._loaders,
            self._grace,
            self._watching,
            changed=self._changed,
        )

    def _remove(self, name: str) -> None:
        watcher = self._watchers.pop(name)
        self._former[name] = watcher
        while len(self._former) > _FORMER:
            self._former.popitem(last=False)
        log.info("model %s: removed from the configuration", name)
        watcher.end()
        self._background(watcher.gone())

    def _set_labels(self, configs: Iterable[ModelConfig]) -> None:
        """Give versions their labels, all or none. Raises FailedPrecondition."""
        before = self._servables.labels
        labels = model_configs.labels_of(configs)
        for name, versions in labels.items():
            available = self._servables.versions(name)
            for label, version in versions.items():
                in_use = before.get(name, {}).get(label, version) != version
                if version not in available and (in_use or not self._new_labels_anywhere):
                    raise FailedPrecondition(
                        f"Request to assign label to version {version} of model {name}, "
                        "which is not currently available for inference"
                    )
        self._servables.labels = labels

    async def _follow(self, file: Path, interval_s: float, applied: tuple[ModelConfig, ...]) -> None:
        told = ""
        while True:
            await asyncio.sleep(interval_s)
            try:
                configs = await asyncio.to_thread(model_configs.read, file)
                if configs != applied:
                    await self.reload(configs)
                    applied = configs
                    log.info("serving by the new %s: %s", file, ", ".join(self._watchers) or "no models")
                told = ""
            except (ModelError, ServingError) as error:
                if str(error) != told:
                    told = str(error)
                    log.error("%s: %s", file, error)
            except Exception:  # whatever it is, the next look may go well
                log.exception("following %s failed", file)

    def _background(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
