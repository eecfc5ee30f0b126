"""torch.compile on request: fused kernels for the model's operators, made at warm-up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from services.torch_worker.config import ConfigError

_HELP = (
    "torch.compile needs a C++ compiler (Debian: apt-get install g++) and Python's headers (python3-dev) where "
    "the worker runs; without --compile the model is served as it is"
)


def compiled(model: torch.nn.Module, mode: str, device: torch.device) -> Callable[..., Any]:
    """Make further calls of the model compiled ones; the first calls compile, which takes from seconds to minutes.

    The number of rows may vary without compiling anew: one row is compiled by itself, and all other numbers together.
    The model stays the object that it is, so that a run_model hook calls the compiled one too.

    Args:
        mode: of torch.compile.

    Returns:
        What to call in the model's place.

    Raises:
        ConfigError: there is no compiler here, or the model is TorchScript.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError("--compile: a TorchScript model is compiled already; leave --compile out")
    compiler = os.environ.get("CXX") or "g++"  # as Inductor looks for it
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(f"--compile: no {compiler} is found here; {_HELP}")
    model.compile(mode=mode)

    def call(*args: Any, **kwargs: Any) -> Any:
        for x in (*args, *kwargs.values()):
            if isinstance(x, torch.Tensor) and x.ndim > 0:
                torch._dynamo.maybe_mark_dynamic(x, 0)
        return model(*args, **kwargs)

    return call


def compile_failure(error: BaseException) -> ConfigError | None:
    """What to tell the operator when an exception came from compiling, not from the model; None for another."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__.startswith(("torch._dynamo", "torch._inductor")):
            return ConfigError(
                f"--compile: the model cannot be compiled, {type(seen).__name__}: {seen}; {_HELP}"
            )
        seen = seen.__cause__ or seen.__context__
    return None
