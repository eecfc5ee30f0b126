"""A model of weights alone: model.py's build_model makes it, a state dict fills it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from services.torch_worker.config import ConfigError
from services.torch_worker.model.failures import place_in
from services.torch_worker.model.folder import BUILDER_FILE, CONFIG_FILE, ModelFolder
from services.torch_worker.model.namespace import Namespace

log = logging.getLogger(__name__)

BUILDER = "build_model"
# Under these keys training scripts keep the weights in a checkpoint, beside epoch, optimizer and the like.
_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model")
# What DataParallel and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")
_NAMED = 5


def read_safetensors(file: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ConfigError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file, device=str(device))
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: safetensors cannot read it: {error}") from error


def state_dict_in(content: object) -> Mapping[str, torch.Tensor] | None:
    """The state dict that a file's content is, or that it has as a checkpoint; None if there is none."""
    if not isinstance(content, Mapping):
        return None
    for candidate in (content, *(content.get(key) for key in _CHECKPOINT_KEYS)):
        if isinstance(candidate, Mapping) and candidate and _all_tensors(candidate):
            return candidate
    return None


def _all_tensors(values: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in values) and all(
        # A module may keep more than tensors in its state, under this name.
        isinstance(value, torch.Tensor) or str(key).endswith("_extra_state")
        for key, value in values.items()
    )


def build(folder: ModelFolder, namespace: Namespace, file: Path, state: Mapping[str, Any]) -> torch.nn.Module:
    """The model that build_model(**parameters) makes, with the weights of state.

    Args:
        file: where state is from, for messages.

    Raises:
        ConfigError: there is no build_model, it fails, or the weights are not of that model; names some.
    """
    builder_file = folder.path / BUILDER_FILE
    if not builder_file.is_file():
        raise ConfigError(
            f"{file}: holds weights ({len(state)} tensors), not a whole model; put {BUILDER_FILE} beside it with a "
            f"function {BUILDER}() that returns the model to load them into, or save the whole model: "
            "torch.save(model, 'model.pth')"
        )
    model = _built(folder, namespace, builder_file)
    state = _without_prefix(state, model.state_dict())
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # sizes differ; torch says which, over several lines
        text = " ".join(line.strip() for line in str(error).splitlines()[1:] or [str(error)])
        raise ConfigError(f"{file}: does not fit the model of {BUILDER_FILE}: {text}") from error
    missing = _not_tied(model, result.missing_keys)
    problems = []
    if missing:
        problems.append(f"the file lacks {_some(missing)}")
    if result.unexpected_keys:
        problems.append(f"the model has no {_some(result.unexpected_keys)}")
    if problems:
        raise ConfigError(f"{file}: does not fit the model of {BUILDER_FILE}: {'; '.join(problems)}")
    return model


def _built(folder: ModelFolder, namespace: Namespace, file: Path) -> torch.nn.Module:
    def fail(problem: str, error: BaseException) -> ConfigError:
        where = place_in(folder.path, error) or file.name
        return ConfigError(f"{file}: {problem}: {type(error).__name__}: {error} ({where})")

    try:
        builder = getattr(namespace.import_module(file.stem), BUILDER, None)
    except BaseException as error:  # sys.exit() must not end the worker without a word
        raise fail("cannot be imported", error) from error
    if not callable(builder):
        raise ConfigError(
            f"{file}: has no function {BUILDER}(); it must return the model that the weights go into"
        )
    parameters = folder.config.parameters
    try:
        model = builder(**parameters)
    except BaseException as error:
        said = f" (with [parameters] of {CONFIG_FILE})" if parameters else ""
        raise fail(f"{BUILDER}{said} failed", error) from error
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"{file}: {BUILDER} returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


def _without_prefix(state: Mapping[str, Any], own: Iterable[str]) -> Mapping[str, Any]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            log.info("the weights' names all start with %r, which is left out", prefix)
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _not_tied(model: torch.nn.Module, missing: Iterable[str]) -> list[str]:
    """Those that are missing in earnest: of tied weights, safetensors keeps one."""
    missing = set(missing)
    state = {key: value for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    filled = {value.data_ptr() for key, value in state.items() if key not in missing}
    return sorted(key for key in missing if key not in state or state[key].data_ptr() not in filled)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
