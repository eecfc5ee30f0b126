"""The few names of seldon-core that model classes import, where seldon-core is not installed.

seldon-core 1.17.1 needs protobuf 3.20, so it cannot be installed beside this worker. Classes mostly import its base
class, whose methods say that they are not there, its response, and its exception.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

DISTRIBUTION = "seldon-core"
_BASE_METHODS = (
    "tags",
    "class_names",
    "predict",
    "predict_raw",
    "transform_input",
    "transform_output",
    "metrics",
    "feature_names",
    "health_status",
    "metadata",
    "init_metadata",
)


class SeldonMicroserviceException(Exception):  # noqa: N818 (seldon-core's name)
    """An error with the HTTP status that it is answered with."""

    status_code = 400

    def __init__(
        self,
        message: str,
        status_code: int | None = None,
        payload: Mapping[str, Any] | None = None,
        reason: str = "MICROSERVICE_BAD_DATA",
    ) -> None:
        super().__init__(message)
        self.message = message
        if status_code is not None:
            self.status_code = status_code
        self.payload = payload
        self.reason = reason


class SeldonNotImplementedError(SeldonMicroserviceException):
    """What the base class's methods raise: the class does not have them."""


class SeldonResponse:
    """What predict returns for a result with tags and metrics of its own."""

    def __init__(
        self,
        data: Any,
        tags: Mapping[str, Any] | None = None,
        metrics: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.data = data
        self.tags = tags or {}
        self.metrics = metrics or []


class SeldonComponent:
    """The base class."""

    def __init__(self, **kwargs: Any) -> None:
        pass

    def load(self) -> None:
        """Nothing to load."""


def _absent(name: str) -> Any:
    def method(self: SeldonComponent, *args: Any, **kwargs: Any) -> Any:
        raise SeldonNotImplementedError(f"{name} is not implemented")

    method.__name__ = name
    return method


for _name in _BASE_METHODS:
    setattr(SeldonComponent, _name, _absent(_name))


def provide_seldon_core() -> None:
    """Make `from seldon_core.user_model import SeldonComponent` and the like work, if nothing else does."""
    if "seldon_core" in sys.modules or importlib.util.find_spec("seldon_core") is not None:
        return
    package = ModuleType("seldon_core", __doc__)
    package.__path__ = []
    user_model = ModuleType("seldon_core.user_model")
    flask_utils = ModuleType("seldon_core.flask_utils")
    for kind in (SeldonComponent, SeldonResponse, SeldonNotImplementedError):
        setattr(user_model, kind.__name__, kind)
    for module in (user_model, flask_utils):
        module.SeldonMicroserviceException = SeldonMicroserviceException  # type: ignore[attr-defined]
    package.user_model, package.flask_utils = user_model, flask_utils  # type: ignore[attr-defined]
    sys.modules.update(
        {"seldon_core": package, "seldon_core.user_model": user_model, "seldon_core.flask_utils": flask_utils}
    )
