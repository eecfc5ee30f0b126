"""Whether a model answers its warm-up requests: it is loaded and run, here."""

from __future__ import annotations

from collections.abc import Sequence

from services.tf_serving.config.inspection import InspectedVersion
from services.tf_serving.config.synthetic import Request
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.model.versions import ModelError
from services.tf_serving.serving.servables import Servable
from services.tf_serving.serving.warm_up import replay


def refusals(name: str, version: InspectedVersion, requests: Sequence[Request]) -> list[str]:
    """For each request why the version refuses it, "" where it answers.

    Raises:
        ModelError: the version cannot be loaded.
    """
    engine = Engine.load(version.path, Threads(1))
    try:
        servable = Servable(name, version.number, engine)
        return [_refusal(servable, request.record) for request in requests]
    finally:
        engine.close()


def answered(name: str, version: InspectedVersion, records: Sequence[bytes]) -> str:
    """Why the version cannot be loaded or cannot answer its records, "" if it can."""
    try:
        engine = Engine.load(version.path, Threads(1))
    except ModelError as error:
        return str(error)
    try:
        replay(Servable(name, version.number, engine), records)
    except ModelError as error:
        return str(error)
    finally:
        engine.close()
    return ""


def _refusal(servable: Servable, record: bytes) -> str:
    try:
        replay(servable, [record])
    except ModelError as error:
        return str(error).partition("cannot be answered: ")[2]
    return ""
