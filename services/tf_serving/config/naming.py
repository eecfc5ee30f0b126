"""What models are called, and which task of the gateway they are. Pure.

The gateway finds a task by the digits behind the last `-` of a request's model name, so a model `textcnn` that is
task 69 is served as `textcnn-69`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from libs.balancing.nodefile import MAX_TASK_ID

_TASK = re.compile(r"-([0-9]+)$")


class NamingError(ValueError):
    """Names or tasks that cannot be. Says what to do."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a model is called; its task, None for none."""

    name: str
    task: int | None


def task_of(name: str) -> int | None:
    """The task that the gateway reads from a name."""
    found = _TASK.search(name)
    number = int(found.group(1)) if found else -1
    return number if 0 <= number <= MAX_TASK_ID else None


def named(folders: Mapping[str, str], names: Mapping[str, str], tasks: Mapping[str, int]) -> dict[str, Named]:
    """Names and tasks by key.

    Args:
        folders: the models' folders by key, which are their names unless another is given.
        names: other names, by key or folder.
        tasks: tasks, by key, folder or name; a name that does not end in its task gets it.

    Raises:
        NamingError: two models would be called the same, or be one task; what was given fits no model.
    """
    found: dict[str, Named] = {}
    used: set[str] = set()
    for key, folder in folders.items():
        name = folder
        for alias in (folder, key):
            if alias in names:
                used.add(alias)
                name = names[alias]
        task = task_of(name)
        for alias in dict.fromkeys((name, folder, key)):
            if alias in tasks:
                used.add(alias)
                task = tasks[alias]
        if task is not None and task_of(name) != task:
            name = f"{name}-{task}"
        found[key] = Named(name, task)
    unknown = [given for given in (*names, *tasks) if given not in used]
    if unknown:
        raise NamingError(f"{unknown[0]!r} is no model here; there are {', '.join(folders) or 'none'}")
    _check_unique(found)
    return found


def _check_unique(found: Mapping[str, Named]) -> None:
    for key, model in found.items():
        others = [other for other in found if other != key]
        same = _first(other for other in others if found[other].name == model.name)
        if same is not None:
            raise NamingError(f"{key} and {same} are both called {model.name}: give one --name {same}=OTHER")
        same = _first(other for other in others if model.task is not None and found[other].task == model.task)
        if same is not None:
            raise NamingError(
                f"{key} and {same} are both task {model.task}: give one another by --task {same}=NUMBER"
            )


def _first(keys: Iterable[str]) -> str | None:
    return next(iter(keys), None)
