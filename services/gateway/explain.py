"""Where a request would go, and why: the answer of `gateway explain` as one document. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libs.balancing.endpoint import Endpoint
from libs.balancing.nodefile import MAX_TASK_ID
from services.gateway.configuration_errors import nearest
from services.gateway.methods import METHODS, TASK_HEADER, WPAI, Key, Method
from services.gateway.snapshot import resolve
from services.gateway.table import Pool, Share, Table, Task

Json = dict[str, Any]

# Where each kind of message says its task, as a caller would look for it.
_SAID_IN = {
    Key.NAME: "the digits after the last '-' of the message's model_name",
    Key.SPEC: "the digits after the last '-' of the message's model_spec.name",
    Key.TASKS: "the digits after the last '-' of the first tasks[].model_spec.name",
    Key.META: 'meta.tags["taskId"] of the message',
    Key.FEEDBACK: 'request.meta.tags["taskId"] of the message',
    Key.HEADER: f"the metadata {TASK_HEADER}; the message is not read",
    Key.EITHER: f"the metadata {TASK_HEADER}; without it the gateway itself answers",
    Key.CONTROL: "the gateway itself answers",
}
_BY_NAME = frozenset({Key.NAME, Key.SPEC, Key.TASKS})


@dataclass(frozen=True, slots=True)
class Question:
    """A call to explain: a model's name or a task, and the method where it matters."""

    model: str | None = None
    task: int | None = None
    method: str | None = None


class NoAnswerError(Exception):
    """The call would be refused. The message says with which status and why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def explain(
    table: Table, question: Question, addresses: Mapping[str, Sequence[str]], live: Json | None = None
) -> Json:
    """The whole way of a call. `addresses` are those of the names; `live` is a running gateway's `/status.json`.

    Raises NoAnswerError when the call would be refused.
    """
    method = find_method(question.method) if question.method else None
    task_id, how = _task_id(question, method)
    if task_id is None or method is not None and method.key == Key.CONTROL:
        return {"model": question.model, "task": None, "how": how, "method": _method(method)}
    task = table.tasks.get(task_id)
    if task is None:
        raise NoAnswerError(
            f"NOT_FOUND: task {task_id} is not in the configuration ({how})",
            nearest(str(task_id), map(str, table.tasks)),
        )
    now = (live or {}).get("tasks", {}).get(str(task_id))
    if live is not None and now is None:
        raise NoAnswerError(
            f"NOT_FOUND: the running gateway does not know task {task_id}",
            "it runs on other files than these",
        )
    return {
        "model": question.model,
        "task": task_id,
        "how": how,
        "method": _method(method),
        "places": [str(place) for place in task.places],
        "timeout_ms": task.timeout_ms,
        "retries": task.retries,
        "retry_budget_percent": table.pools[task.pool].retry_budget_percent,
        "max_qps": task.max_qps,
        "burst": None if task.max_qps is None else task.burst or task.max_qps,
        "clients": None if task.clients is None else sorted(task.clients),
        "jwt": _provider(table, task),
        "pools": _pools(table, task, addresses, now),
    }


def task_of_name(name: str) -> int | None:
    """The task that a model's name ends in: digits after the last '-', or nothing but digits."""
    digits = name.rpartition("-")[2]
    if not digits.isascii() or not digits.isdigit():
        return None
    significant = digits.lstrip("0")
    task_id = int(significant) if 1 <= len(significant) <= 10 else 0
    return task_id if 1 <= task_id <= MAX_TASK_ID else None


def find_method(text: str) -> Method:
    """A method by its path, or by the end of one: `Predict`, `PredictionService/Predict`. Of several the gateway's own
    service comes first, then the order of the table. Raises NoAnswerError."""
    wanted = text.strip("/")
    found = [
        m for m in METHODS if m.path.strip("/") == wanted or m.path.endswith(("/" + wanted, "." + wanted))
    ]
    if not found:
        names = {m.path.rpartition("/")[2] for m in METHODS} | {m.path for m in METHODS}
        raise NoAnswerError(f"UNIMPLEMENTED: there is no method {text!r}", nearest(text, names))
    return min(found, key=lambda m: not m.path.startswith(f"/{WPAI}/"))


def _task_id(question: Question, method: Method | None) -> tuple[int | None, str]:
    if method is not None and method.key == Key.CONTROL:
        return None, _SAID_IN[Key.CONTROL]
    if question.task is not None:
        return question.task, _SAID_IN[method.key] if method else "as given"
    if question.model is None:
        return None, _SAID_IN[method.key] if method else ""
    found = task_of_name(question.model)
    if found is None:
        raise NoAnswerError(
            f"INVALID_ARGUMENT: the name {question.model!r} does not end in '-' and a task id",
            f"name the model like textcnn-69, or send the metadata {TASK_HEADER}: 69",
        )
    if method is None or method.key in _BY_NAME:
        return found, _SAID_IN[method.key] if method else "the digits after the last '-' of the model's name"
    return found, f"{_SAID_IN[method.key]}; no name is looked at, {found} is taken from the one given here"


def _method(method: Method | None) -> Json | None:
    if method is None:
        return None
    return {"path": method.path, "instance_path": method.target, "streaming": method.streaming}


def _provider(table: Table, task: Task) -> Json | None:
    provider = table.edge.jwt.get(task.jwt)
    if provider is None:
        return None
    return {"name": provider.name, "issuer": provider.issuer, "audiences": list(provider.audiences)}


def _pools(table: Table, task: Task, addresses: Mapping[str, Sequence[str]], now: Json | None) -> list[Json]:
    rest = 100.0 - (task.canary.percent if task.canary else 0.0)
    parts = [("main", Share(task.pool, rest))]
    parts += [(role, s) for role, s in (("canary", task.canary), ("shadow", task.shadow)) if s is not None]
    alive = {pool["role"]: pool for pool in (now or {}).get("pools", ())}
    return [_pool(table, role, share, addresses, alive.get(role)) for role, share in parts]


def _pool(
    table: Table, role: str, share: Share, addresses: Mapping[str, Sequence[str]], now: Json | None
) -> Json:
    pool = table.pools[share.pool]
    chain = table.chain(pool.name)
    groups = resolve(table, addresses)[pool.name]
    instances = []
    for level, (owner, group) in enumerate(zip(chain, groups, strict=True)):
        total = sum(group.values())
        for endpoint, weight in group.items():
            instances.append(
                {
                    "address": str(endpoint),
                    "names": _names(owner, endpoint, addresses),
                    "from": owner.name if level else "",
                    "weight": weight,
                    "weight_share": 0.0 if level else weight / total,
                }
            )
    if now is not None:
        instances = [_alive(instance, instances) for instance in now["instances"]]
    return {
        "name": pool.name,
        "role": role,
        "percent": share.percent,
        "places": [str(place) for place in pool.places],
        "policy": str(pool.policy),
        "health_check": str(pool.health_check),
        "fallback": [stand_in.name for stand_in in chain[1:]],
        "max_in_flight": pool.max_in_flight,
        "max_queued": pool.max_queued,
        "tls": (
            None
            if pool.tls is None
            else {"server_name": pool.tls.server_name, "mutual": pool.tls.cert is not None}
        ),
        "unresolved": sorted(
            {e.host for owner in chain for e in owner.members if e.is_name and not addresses.get(e.host)}
        ),
        "instances": instances,
    }


def _names(pool: Pool, instance: Endpoint, addresses: Mapping[str, Sequence[str]]) -> list[str]:
    """The endpoints of the configuration that led to an instance, where they are names."""
    return [
        str(e)
        for e in pool.members
        if e.is_name and e.port == instance.port and instance.host in addresses.get(e.host, ())
    ]


def _alive(instance: Json, known: Sequence[Json]) -> Json:
    """An instance of a running gateway, with what the configuration says of it."""
    own: Json = next((k for k in known if k["address"] == instance["address"]), {})
    keys = ("address", "from", "weight", "health", "in_flight", "rate", "share")
    return {"names": own.get("names", []), **{key: instance.get(key) for key in keys}}
