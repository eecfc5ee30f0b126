"""Answering recorded requests before a version serves, so that its first callers find it warm.

The records are PredictionLog messages, those of assets.extra/tf_serving_warmup_requests. They go the whole way that a
call goes, from the request's bytes to the answer's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from libs.serving.call import Call
from libs.serving.errors import ServingError
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.model.versions import ModelError
from services.tf_serving.protocols.service import PREDICTION_SERVICE, Service
from services.tf_serving.serving.servables import Servable, Servables

MAX_RECORDS = 1000
"""TensorFlow Serving's own bound."""

_METHODS = {
    "predict_log": "Predict",
    "classify_log": "Classify",
    "regress_log": "Regress",
    "multi_inference_log": "MultiInference",
}


def replay(servable: Servable, records: Sequence[bytes]) -> None:
    """Answer the records, whatever model and version they were recorded for. Not for the event loop's thread.

    Raises:
        ModelError: too many, one is no request, or cannot be answered; says which and why.
    """
    if len(records) > MAX_RECORDS:
        raise ModelError(f"{len(records)} recorded requests: expected at most {MAX_RECORDS}")
    if records:
        asyncio.run(_replay(servable, records))


async def _replay(servable: Servable, records: Sequence[bytes]) -> None:
    scheduler = Scheduler(threads=1, max_queue=1, in_place=False)
    handlers = Service(Servables([servable]), scheduler).handlers()
    try:
        for place, record in enumerate(records, 1):
            try:
                name, request = _request(servable, record)
                method = f"/{PREDICTION_SERVICE}/{name}"
                await handlers[method](Call(method, {}), request.SerializeToString())
            except (ModelError, ServingError) as error:
                raise ModelError(f"recorded request {place} cannot be answered: {error}") from error
    finally:
        await scheduler.close(1.0)


def _request(servable: Servable, record: bytes) -> tuple[str, Any]:
    """The method and the request of a record, which now is for this servable."""
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    try:
        log = PredictionLog.FromString(record)
    except DecodeError as error:
        raise ModelError(f"not a tensorflow.serving.PredictionLog: {error}") from error
    kind = log.WhichOneof("log_type")
    method = _METHODS.get(kind or "")
    if method is None:
        raise ModelError(f"a {kind or 'log of no type'}: expected one of {', '.join(_METHODS)}")
    request = getattr(log, kind).request
    for part in request.tasks if method == "MultiInference" else [request]:
        part.model_spec.name = servable.name
        part.model_spec.ClearField("version_choice")
    return method, request
