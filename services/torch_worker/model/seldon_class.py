"""A Seldon-style class as the model: `predict(self, X, names, meta)`, called as seldon-core's Python wrapper calls it.

The rules are those of seldon_core/user_model.py and microservice.py, 1.17.1: an object is made of the class with the
deployment's parameters, `load` is called once, then for each request `predict`, and after it `metrics`, `tags` and,
for answers of two and more dimensions, `class_names`, each where the class has it.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from libs.serving.errors import Internal, InvalidArgument, ServingError
from services.torch_worker.config import ConfigError
from services.torch_worker.model.answer import Answer
from services.torch_worker.model.failures import place_in
from services.torch_worker.model.folder import CONFIG_FILE, ModelFolder
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.model.namespace import Namespace
from services.torch_worker.model.seldon_shim import provide_seldon_core

log = logging.getLogger(__name__)

# Seldon's operator hands the parameters of a deployment over in this variable, as JSON.
PARAMETERS_VARIABLE = "PREDICTIVE_UNIT_PARAMETERS"
METRICS_VARIABLE = "INCLUDE_METRICS_IN_CLIENT_RESPONSE"
_METRIC_TYPES = ("COUNTER", "GAUGE", "TIMER")


class ClassModel(torch.nn.Module):
    """The object of a class, in a module's place. Copies share the object: it may hold what cannot be copied.

    Args:
        user: the object, loaded.
    """

    user: Any
    _predict: Callable[[Any, list[str], dict[str, Any]], Any]

    def __init__(self, user: Any) -> None:
        super().__init__()
        # Not as a submodule, should it be a module: what it holds is its own.
        object.__setattr__(self, "user", user)
        object.__setattr__(self, "_predict", _calls_of(user.predict))

    def __deepcopy__(self, memo: dict[int, Any]) -> ClassModel:
        return ClassModel(self.user)

    def forward(self, x: Any, **kwargs: Any) -> Answer:
        """The answer to a payload: an array, dict of arrays, str, bytes or JSON value.

        Args:
            kwargs: the hooks': {"meta": {...}}; its "names" become the class's names, the rest its meta.

        Raises:
            InvalidArgument: the class raised seldon-core's exception with a status below 500.
            Exception: whatever else the class raised.
        """
        meta = dict(kwargs.get("meta") or {})
        names = meta.pop("names", [])
        if not meta.get("tags"):
            meta.pop("tags", None)
        user = self.user
        try:
            with torch.inference_mode(False):  # what the class does with autograd is its own business
                result = self._predict(_as_numpy(x), list(names), meta)
                own_tags, metrics = {}, []
                if _is_a(result, "SeldonResponse"):
                    result, own_tags, metrics = (
                        result.data,
                        dict(result.tags or {}),
                        _checked(result.metrics or []),
                    )
                metrics = [*_checked(_optional(user, "metrics", [])), *metrics]
                # The request's, as predict left them: it may write into its meta.
                tags = {**(meta.get("tags") or {}), **(_optional(user, "tags", None) or {}), **own_tags}
                if isinstance(result, list):
                    result = np.array(result)
                column_names = (
                    _class_names(user) if isinstance(result, np.ndarray) and result.ndim > 1 else None
                )
        except ServingError:
            raise
        except Exception as error:
            status = getattr(error, "status_code", None)
            if _is_a(error, "SeldonMicroserviceException") and isinstance(status, int) and status < 500:
                raise InvalidArgument(str(getattr(error, "message", error))) from error
            raise
        return Answer(result, tags or None, metrics if _tells_metrics() else [], column_names)


def load_class(folder: ModelFolder, namespace: Namespace) -> ClassModel:
    """Make the object of the folder's class and call its `load`.

    Raises:
        ConfigError: the class is not there, cannot be made, or fails to load; says where.
    """
    assert folder.class_path is not None
    module_name, _, class_name = folder.class_path.rpartition(".")
    provide_seldon_core()

    def fail(what: str, error: BaseException) -> ConfigError:
        where = place_in(folder.path, error) or f"class {class_name}"
        return ConfigError(f"{folder.path}: {what}: {type(error).__name__}: {error} ({where})")

    try:
        module = namespace.import_module(module_name)
    except BaseException as error:  # sys.exit() must not end the worker without a word
        raise fail(f"{module_name} cannot be imported", error) from error
    kind = getattr(module, class_name, None)
    if not isinstance(kind, type):
        defined = sorted(name for name, value in vars(module).items() if isinstance(value, type))
        raise ConfigError(
            f"{module.__file__}: has no class {class_name}; it has {', '.join(defined[:8]) or 'none'}"
        )
    if not callable(getattr(kind, "predict", None)) or _overrides(kind, "predict_raw"):
        raise ConfigError(
            f"{module.__file__}: class {class_name} must have predict(self, X, names, meta); predict_raw, which takes "
            "protobuf messages, is not called here"
        )
    parameters = class_parameters(folder.config.parameters, os.environ.get(PARAMETERS_VARIABLE, ""))
    try:
        user = kind(**parameters)
    except BaseException as error:
        raise fail(
            f"{class_name}({', '.join(f'{k}={v!r}' for k, v in parameters.items())}) failed", error
        ) from error
    try:
        if hasattr(user, "load"):
            user.load()
    except NotImplementedError:
        log.debug("%s.load is not implemented", class_name)
    except BaseException as error:
        raise fail(f"{class_name}.load() failed", error) from error
    return ClassModel(user)


def _run_class(model: Any, x: Any, **kwargs: Any) -> Any:
    return model(x, **kwargs)


CLASS_HOOKS = Hooks(run_model=_run_class, model_takes_tags=False, model_call="predict")
"""By these an engine calls a class: payloads as they came, one request at a time unless config.toml says more."""


def class_parameters(configured: Mapping[str, Any], variable: str) -> dict[str, Any]:
    """The keyword arguments of the class: config.toml's [parameters], and over them the environment's.

    Args:
        variable: JSON, [{"name": ..., "value": ..., "type": "INT"|"FLOAT"|"DOUBLE"|"STRING"|"BOOL"}], or "".

    Raises:
        ConfigError: the variable is not of that form.
    """
    parameters = dict(configured)
    kinds: dict[str, Callable[[str], Any]] = {
        "INT": int,
        "FLOAT": float,
        "DOUBLE": float,
        "STRING": str,
        "BOOL": _boolean,
    }
    try:
        for item in json.loads(variable or "[]"):
            parameters[item["name"]] = kinds[item["type"]](item["value"])
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{PARAMETERS_VARIABLE}: expected a JSON list of objects with name, value and type ({', '.join(kinds)}), "
            f"got {variable!r}: {type(error).__name__}: {error}; {CONFIG_FILE} can say the same in [parameters]"
        ) from error
    return parameters


def _boolean(text: str) -> bool:
    """As distutils' strtobool."""
    lowered = str(text).lower()
    if lowered in ("y", "yes", "t", "true", "on", "1"):
        return True
    if lowered in ("n", "no", "f", "false", "off", "0"):
        return False
    raise ValueError(f"expected true or false, got {text!r}")


def _calls_of(predict: Callable[..., Any]) -> Callable[[Any, list[str], dict[str, Any]], Any]:
    """How to call a predict: with meta, where it takes that; seldon-core tries, and tries again on a TypeError."""
    try:
        signature = inspect.signature(predict)
    except (TypeError, ValueError):
        return lambda x, names, meta: predict(x, names, meta=meta)
    if _fits(signature, None, None, meta=None):
        return lambda x, names, meta: predict(x, names, meta=meta)
    if _fits(signature, None, None):
        return lambda x, names, meta: predict(x, names)
    return lambda x, names, meta: predict(x)


def _fits(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _as_numpy(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.numpy()
    return {name: _as_numpy(value) for name, value in x.items()} if isinstance(x, dict) else x


def _optional(user: Any, method: str, default: Any) -> Any:
    """What a method of the object returns; the default where it has none, or seldon-core's base class has it."""
    if not hasattr(user, method):
        return default
    try:
        return getattr(user, method)()
    except Exception as error:
        if _is_a(error, "SeldonNotImplementedError"):
            return default
        raise


def _class_names(user: Any) -> Sequence[str] | None:
    names: Sequence[str] | None = getattr(user, "class_names", None)
    return _optional(user, "class_names", None) if callable(names) else names


def _checked(metrics: Any) -> list[Mapping[str, Any]]:
    if isinstance(metrics, list) and all(_is_metric(metric) for metric in metrics):
        return metrics
    raise Internal(
        f"metrics: expected a list of {{'key', 'type': {' or '.join(_METRIC_TYPES)}, 'value': number}}, got {metrics!r}"
    )


def _is_metric(metric: Any) -> bool:
    return (
        isinstance(metric, Mapping)
        and "key" in metric
        and metric.get("type") in _METRIC_TYPES
        and isinstance(metric.get("value"), int | float | np.number)
    )


def _tells_metrics() -> bool:
    return os.environ.get(METRICS_VARIABLE, "true").lower() == "true"


def _is_a(value: object, name: str) -> bool:
    """Whether a value is of a class of seldon-core, the real one or the one that stands in for it."""
    return any(kind.__name__ == name for kind in type(value).__mro__)


def _overrides(kind: type, method: str) -> bool:
    """Whether a class has a method that is not just seldon-core's base class's."""
    owner = next((base for base in kind.__mro__ if method in vars(base)), None)
    return owner is not None and owner.__name__ != "SeldonComponent"
