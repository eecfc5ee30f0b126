"""Entering a model folder and loading its model: where the folder's code begins to run."""

from __future__ import annotations

import logging
import os
import sys

import torch

from services.torch_worker.config import ConfigError
from services.torch_worker.model.folder import MODEL_FILE, ModelFolder

log = logging.getLogger(__name__)


def enter_folder(folder: ModelFolder) -> None:
    """Make the folder the first import location and the working directory of this process.

    Pickles find their class files there, and hooks that open files by a relative name find those: model
    folders were always run from inside. The worker serves one folder, so it may own both.
    """
    os.chdir(folder.path)
    entry = str(folder.path)
    if entry in sys.path:
        sys.path.remove(entry)
    sys.path.insert(0, entry)


def load_model(folder: ModelFolder, device: torch.device) -> torch.nn.Module:
    """Unpickle model.pth onto device, in evaluation mode. The folder must have been entered.

    Raises:
        ConfigError: the file is not a whole model, or its classes cannot be found; says which and what to do.
    """
    file = folder.model_file
    log.info(
        "loading %s: a pickle is code and runs with this process's rights; serve only models you trust", file
    )
    try:
        model = torch.load(file, map_location=device, weights_only=False)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{file}: the model refers to module {error.name!r}, which is neither in the folder nor "
            f"installed; put {(error.name or '').split('.')[0]}.py beside {MODEL_FILE} or install the package"
        ) from error
    except AttributeError as error:
        raise ConfigError(
            f"{file}: a class of the model cannot be found ({error}); a class that was defined in the "
            "training script (__main__) must move to a file of its own beside the model, be imported from "
            "there, and the model be saved again"
        ) from error
    except Exception as error:  # unpickling runs the folder's code, which may raise anything
        raise ConfigError(f"{file}: torch.load cannot read it: {type(error).__name__}: {error}") from error
    if isinstance(model, dict):
        raise ConfigError(
            f"{file}: holds a state dict of {len(model)} entries, not a whole model; save the model itself: "
            f"torch.save(model, {MODEL_FILE!r})"
        )
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"{file}: holds a {type(model).__name__}, expected a torch.nn.Module")
    return model.to(device).eval()
