"""What a loaded model folder holds, in words: `torch-worker check`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator

import torch

from services.torch_worker.model.folder import CONFIG_FILE, PROCESSOR_FILE, REQUIREMENTS_FILE
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.model.loading import LoadedModel
from services.torch_worker.model.model_config import ModelConfig
from services.torch_worker.model.requirements import lacking
from services.torch_worker.model.seldon_class import ClassModel


def describe(loaded: LoadedModel) -> list[tuple[str, str]]:
    """Lines of a name and what there is to say."""
    folder, model, hooks = loaded.folder, loaded.model, loaded.hooks
    lines = [("folder", str(folder.path))]
    file = folder.model_file
    if file is not None:
        lines.append(("model", f"{file.name}, {loaded.kind}, {_size(file.stat().st_size)}"))
    if isinstance(model, ClassModel):
        user = model.user
        methods = [
            name for name in ("load", "predict", "tags", "metrics", "class_names") if hasattr(user, name)
        ]
        lines.append(("class", f"{folder.class_path}, with {', '.join(methods)}"))
    else:
        lines.append(("class", _class_name(model, loaded)))
        lines.append(("forward", _signature(model)))
        lines.append(("parameters", _parameters(model)))
        lines.append(("hooks", _hooks(hooks)))
    lines.append(("batches", _batches(folder.config, hooks)))
    lines += [(CONFIG_FILE, text) for text in _said(folder.config)]
    if (folder.path / REQUIREMENTS_FILE).is_file():
        lacks = lacking(folder.path)
        lines.append((REQUIREMENTS_FILE, f"lacking: {', '.join(map(str, lacks))}" if lacks else "met"))
    return lines


def _class_name(model: torch.nn.Module, loaded: LoadedModel) -> str:
    if isinstance(model, torch.jit.ScriptModule):
        return str(getattr(model, "original_name", "unknown"))
    if isinstance(model, torch.fx.GraphModule):
        return "a graph, which has no class any more"
    kind = type(model)
    return f"{kind.__module__.removeprefix(f'{loaded.namespace.name}.')}.{kind.__qualname__}"


def _signature(model: torch.nn.Module) -> str:
    schema = getattr(getattr(model, "forward", None), "schema", None)
    if schema is not None:
        return str(schema)
    try:
        return f"forward{inspect.signature(model.forward)}"
    except (TypeError, ValueError):
        return "does not say what it takes"


def _parameters(model: torch.nn.Module) -> str:
    parameters = list(model.parameters())
    if not parameters:
        return "none"
    counts: dict[torch.dtype, int] = {}
    for parameter in parameters:
        counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
    size = sum(p.numel() * p.element_size() for p in (*parameters, *model.buffers()))
    each = ", ".join(f"{count:,} {str(dtype).removeprefix('torch.')}" for dtype, count in counts.items())
    devices = ", ".join(sorted({str(p.device) for p in parameters}))
    return f"{each}; {_size(size)} with buffers, on {devices}"


def _hooks(hooks: Hooks) -> str:
    names = ("preprocess", "preprocess_batch", "run_model", "postprocess", "postprocess_batch", "class_names")
    found = [name for name in names if getattr(hooks, name) is not None]
    return f"{', '.join(found)} ({PROCESSOR_FILE})" if found else "none"


def _batches(config: ModelConfig, hooks: Hooks) -> str:
    if config.batchable is False:
        return "requests are never shared"
    if config.batchable:
        return "requests share model calls: batchable = true"
    if hooks.run_model is not None:
        return f"requests share no calls: {hooks.model_call} is the folder's own code (batchable = true lets them)"
    return "requests share model calls if the first shared ones give the same answers"


def _said(config: ModelConfig) -> Iterator[str]:
    default = ModelConfig()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            yield f"{field.name} = {value}"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
