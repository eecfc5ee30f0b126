"""Call models behind a dl_inference gateway, a TensorFlow Serving, a Seldon or a KServe V2 server.

    from dl_inference import Client

    with Client("127.0.0.1:8500") as client:
        outputs = client.predict("half_plus_two-70", {"x": [[1.0], [2.0]]})     # name -> numpy array
        scores = client.pytorch_predict(111, features)                          # an array, bytes, str or dict
        outputs = client.infer("resnet-12", {"image": images})                  # KServe V2

`AsyncClient` is the same for asyncio. Every error is an `InferenceError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dl_inference.aio import AsyncClient
    from dl_inference.calls import Answer, Call
    from dl_inference.client import Client
    from dl_inference.errors import (
        Cancelled,
        DeadlineExceeded,
        InferenceError,
        InvalidInput,
        NotAllowed,
        NotFound,
        Overloaded,
        ServerError,
        Unavailable,
    )
    from dl_inference.options import Options, Reply, RetryPolicy, Tls

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "aio",
    "Answer": "calls",
    "Call": "calls",
    "Client": "client",
    "Options": "options",
    "Reply": "options",
    "RetryPolicy": "options",
    "Tls": "options",
    "Cancelled": "errors",
    "DeadlineExceeded": "errors",
    "InferenceError": "errors",
    "InvalidInput": "errors",
    "NotAllowed": "errors",
    "NotFound": "errors",
    "Overloaded": "errors",
    "ServerError": "errors",
    "Unavailable": "errors",
}

__all__ = [
    "Answer",
    "AsyncClient",
    "Call",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "InferenceError",
    "InvalidInput",
    "NotAllowed",
    "NotFound",
    "Options",
    "Overloaded",
    "Reply",
    "RetryPolicy",
    "ServerError",
    "Tls",
    "Unavailable",
]


def __getattr__(name: str) -> object:
    """grpc and numpy are imported when something that needs them is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
