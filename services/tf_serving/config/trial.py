"""Whether a model answers its warm-up requests: it is loaded and run, here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.tf_serving.config import example_features, synthetic
from services.tf_serving.config.inspection import InspectedVersion
from services.tf_serving.config.synthetic import Request, Skipped
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.model.methods import CLASSIFY, REGRESS
from services.tf_serving.model.versions import ModelError
from services.tf_serving.serving.servables import Servable
from services.tf_serving.serving.warm_up import replay


def answered_requests(
    name: str, version: InspectedVersion, rows: Sequence[int]
) -> tuple[list[Request], dict[str, str]]:
    """Warm-up requests that the version answers, and, by signature, why there are no others.

    Raises:
        ModelError: the version cannot be loaded.
    """
    made, reasons = list[Request](), dict[str, str]()
    engine = Engine.load(version.path, Threads(1))
    try:
        servable = Servable(name, version.number, engine)
        for one in synthetic.requests(name, version.signatures, rows):
            if isinstance(one, Skipped):
                reasons.setdefault(one.signature, one.reason)
                continue
            refusal = ""
            for request in alternatives(name, version, one):
                refused = _refusal(servable, request.record)
                if not refused:
                    made.append(request)
                    break
                refusal = refusal or refused
            else:
                reasons.setdefault(one.signature, f"it refuses zeros: {refusal}")
    finally:
        engine.close()
    return made, reasons


def alternatives(name: str, version: InspectedVersion, one: Request) -> Iterator[Request]:
    """The request, and the same with tf.Examples where they may be meant; those that are likelier first."""
    signature = version.signatures[one.signature]
    if one.certain or not synthetic.takes_examples(signature):
        yield one
        return
    example = example_features.read(version.path)
    others = [] if example is None else [synthetic.of_examples(name, signature, one.rows or 1, example)]
    if signature.method_name in (CLASSIFY, REGRESS):
        yield from (*others, one)
    else:
        yield from (one, *others)


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
