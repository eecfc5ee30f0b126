"""Hooks of processor.py: preprocess(x, **kwargs), run_model(model, x, **kwargs), postprocess(x, **kwargs), and the
batched preprocess_batch(xs, **kwargs), postprocess_batch(xs, **kwargs).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from services.torch_worker.config import ConfigError
from services.torch_worker.model.failures import place_in
from services.torch_worker.model.folder import ModelFolder
from services.torch_worker.model.namespace import Namespace

log = logging.getLogger(__name__)

Hook = Callable[..., Any]

# Each hook's parameters as a folder would write them, and the keyword arguments that every call has.
_FORMS = {
    "preprocess": (("x",), ("meta",)),
    "preprocess_batch": (("xs",), ("metas",)),
    "run_model": (("model", "x"), ("meta", "metas")),
    "postprocess": (("x",), ("meta",)),
    "postprocess_batch": (("xs",), ("metas",)),
}


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks that a folder defines; None where it has none and the default applies.

    Attributes:
        preprocess: from the request's payload (array, bytes, str or JSON value) to the model's input.
        run_model: calls the model itself; None when absent or when it is no more than `return model(x)`.
        model_takes_tags: whether tags may become keyword arguments of the model; False when there is a
            run_model of any kind, which decides that itself.
        postprocess: from the model's output to the answer (array or nested list, str, bytes, dict).
        preprocess_batch, postprocess_batch: the same for several requests at a time: a list in, a list of as many out,
            or an array or tensor with one row for each.
        model_call: what run_model is to those who wrote it, for error messages.
        class_names: `data.names` of two- and more-dimensional answers, where processor.py sets a list of that
            name.
    """

    preprocess: Hook | None = None
    run_model: Hook | None = None
    postprocess: Hook | None = None
    class_names: tuple[str, ...] | None = None
    model_takes_tags: bool = True
    preprocess_batch: Hook | None = None
    postprocess_batch: Hook | None = None
    model_call: str = "run_model"

    @property
    def preprocesses(self) -> bool:
        """Whether there is a hook before the model."""
        return self.preprocess is not None or self.preprocess_batch is not None

    @property
    def postprocesses(self) -> bool:
        """Whether there is a hook after the model."""
        return self.postprocess is not None or self.postprocess_batch is not None


def load_hooks(folder: ModelFolder, namespace: Namespace) -> Hooks:
    """Import the folder's processor.py, if it has one, among the folder's modules, and pick its hooks.

    Raises:
        ConfigError: the file cannot be imported, or a hook's name is bound to something that cannot be called, or not
            as hooks are.
    """
    file = folder.processor_file
    if file is None:
        return Hooks()
    try:
        module = namespace.import_module(file.stem)
    except BaseException as error:  # a processor that calls sys.exit() must not end the worker without a word
        where = place_in(folder.path, error) or file.name
        text = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigError(f"{file}: cannot be imported: {type(error).__name__}: {text} ({where})") from error

    found: dict[str, Hook | None] = {}
    for name in _FORMS:
        found[name] = hook = getattr(module, name, None)
        if hook is not None:
            _check(file, name, hook)
    if not any(found.values()) and not hasattr(module, "class_names"):
        log.warning("%s defines none of %s, class_names: it changes nothing", file, ", ".join(_FORMS))
    takes_tags = found["run_model"] is None
    if found["run_model"] is not None and is_plain_call(found["run_model"]):
        found["run_model"] = None
    names = getattr(module, "class_names", None)
    if names is not None and not (isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)):
        raise ConfigError(f"{file}: class_names must be a list of strings, the names of the answer's columns")
    return Hooks(
        preprocess=found["preprocess"],
        run_model=found["run_model"],
        postprocess=found["postprocess"],
        class_names=None if names is None else tuple(names),
        model_takes_tags=takes_tags,
        preprocess_batch=found["preprocess_batch"],
        postprocess_batch=found["postprocess_batch"],
    )


def _check(file: Path, name: str, hook: Any) -> None:
    """A hook that could not be called would fail each request.

    Raises:
        ConfigError: it is no function, or takes other arguments.
    """
    if not callable(hook):
        raise ConfigError(f"{file}: {name} must be a function, it is of type {type(hook).__name__}")
    names, keywords = _FORMS[name]
    form = f"def {name}({', '.join(names)}, **kwargs)"
    if inspect.iscoroutinefunction(hook):
        raise ConfigError(
            f"{file}: {name} must be a plain function, {form}, not async: hooks run on threads, where they may wait"
        )
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):  # of something built in, which does not say
        return
    try:
        signature.bind(*names, **dict.fromkeys(keywords))
    except TypeError as error:
        raise ConfigError(
            f"{file}: {name}{signature} cannot be called as hooks are, {form}: {error}"
        ) from error


def _plain(model: Any, x: Any, **kwargs: Any) -> Any:
    return model(x)


def is_plain_call(hook: Hook) -> bool:
    """Whether hook does no more than `return model(x)`, as the template that many folders start from does.

    Such a hook means what no hook means (but for tags, which it ignores), so its requests may be batched.
    Compared by bytecode: anything else in the body makes it a custom call.
    """
    if not isinstance(hook, FunctionType):
        return False
    mine, plain = hook.__code__, _plain.__code__
    return (
        mine.co_code == plain.co_code
        and mine.co_argcount == 2
        and mine.co_kwonlyargcount == 0
        and bool(mine.co_flags & inspect.CO_VARKEYWORDS)
    )
