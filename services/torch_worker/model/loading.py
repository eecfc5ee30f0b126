"""From a folder's files to a model in memory: where the folder's code begins to run."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from services.torch_worker.config import ConfigError
from services.torch_worker.model.directory import own_directory, working_directory
from services.torch_worker.model.exported import FixedRows, Rows, load_program
from services.torch_worker.model.folder import MODEL_FILE, ModelFolder, open_folder
from services.torch_worker.model.formats import Format, detect
from services.torch_worker.model.hooks import Hooks, load_hooks
from services.torch_worker.model.model_config import ModelConfig
from services.torch_worker.model.namespace import Namespace, ScriptClassError
from services.torch_worker.model.requirements import check_requirements
from services.torch_worker.model.seldon_class import CLASS_HOOKS, load_class
from services.torch_worker.model.weights import build, read_safetensors, state_dict_in

log = logging.getLogger(__name__)

_STATE_DICT, _CHECKPOINT = "state dict", "checkpoint"
# Kinds of files whose model comes from build_model.
_BUILT = (Format.SAFETENSORS.value, _STATE_DICT, _CHECKPOINT)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A folder's model and code, ready to be given threads.

    Attributes:
        folder: whose config says what the files say too, where config.toml does not: batchable and max_batch_size of a
            program that was exported for a number of rows.
        namespace: the folder's modules; to be closed when the version is unloaded.
        model: on the device, in evaluation mode.
        hooks: processor.py's, or those that call a class.
        kind: what the model is, for people: "pickle", "TorchScript", "class MyModel" ...
    """

    folder: ModelFolder
    namespace: Namespace
    model: torch.nn.Module
    hooks: Hooks
    kind: str

    def enter_thread(self) -> None:
        """Make the calling thread the version's own: its modules, and its folder as the working directory, if the
        system lets a thread have one of its own.
        """
        self.namespace.adopt_thread()
        own_directory(self.folder.path)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the version's code on the calling thread for a while, in its folder."""
        with working_directory(self.folder.path), self.namespace.active():
            yield


def open_model(path: Path, device: torch.device, *, weights_only: bool = False) -> LoadedModel:
    """Load the model folder at path, with the folder as this thread's working directory.

    Args:
        device: where the model is put.
        weights_only: take nothing but weights of the model file: no pickled code, and no programs.

    Raises:
        ConfigError: something is missing or wrong; says what to do.
    """
    folder = open_folder(path)
    check_requirements(folder.path)
    with _namespace(folder) as namespace, working_directory(folder.path), namespace.active():
        if folder.class_path is not None:
            name = f"class {folder.class_path.rpartition('.')[2]}"
            return LoadedModel(folder, namespace, load_class(folder, namespace), CLASS_HOOKS, name)
        hooks = load_hooks(folder, namespace)
        model, kind, rows = load_model(folder, namespace, device, weights_only=weights_only)
        if folder.config.parameters and kind not in _BUILT:
            log.warning(
                "%s: [parameters] are for build_model or a class; this %s takes none", folder.path, kind
            )
        config = _told_by_program(folder.config, rows, isinstance(model, FixedRows))
        return LoadedModel(replace(folder, config=config), namespace, model, hooks, kind)


@contextmanager
def _namespace(folder: ModelFolder) -> Iterator[Namespace]:
    """The folder's modules, forgotten again if the load fails."""
    namespace = Namespace(folder.path)
    try:
        yield namespace
    except BaseException:
        namespace.close()
        raise


def _told_by_program(config: ModelConfig, rows: Rows, independent: bool) -> ModelConfig:
    """The config with what a program's own input sizes say, where config.toml does not."""
    batchable, most = config.batchable, config.max_batch_size
    if rows.fixed is not None and batchable is None and not (independent and rows.fixed > 1):
        batchable = False
    if rows.fixed is not None and most is None and independent:
        most = rows.fixed
    if rows.most is not None:
        most = min(most or rows.most, rows.most)
    return replace(config, batchable=batchable, max_batch_size=most)


def load_model(
    folder: ModelFolder, namespace: Namespace, device: torch.device, *, weights_only: bool = False
) -> tuple[torch.nn.Module, str, Rows]:
    """The model of the folder's model file, on device and in evaluation mode; what the file is; what rows it takes.

    Raises:
        ConfigError: the file is damaged, not what it must be, or not allowed; says what to do.
    """
    file = folder.model_file
    assert file is not None
    found = detect(file)
    if weights_only and found in (Format.TORCHSCRIPT, Format.EXPORT):
        raise ConfigError(
            f"{file}: holds {found.value}; with --weights-only the file may hold nothing but weights: save them with "
            "safetensors, or as a state dict, and put model.py with build_model() beside them"
        )
    if found is not Format.PICKLE and file.suffix == ".pth":
        log.info("%s holds %s, whatever its name says", file, found.value)
    if found is Format.TORCHSCRIPT:
        return _load_script(file, device), found.value, Rows()
    if found is Format.EXPORT:
        program, rows = load_program(file, device)
        return program, found.value, rows
    if found is Format.SAFETENSORS:
        model = build(folder, namespace, file, read_safetensors(file, device))
        return model.to(device).eval(), found.value, Rows()
    content = _read_weights(file, device)
    state = state_dict_in(content)
    if state is not None:
        model = build(folder, namespace, file, state)
        return model.to(device).eval(), _STATE_DICT, Rows()
    if weights_only:
        raise ConfigError(
            f"{file}: is a pickle of more than weights, which is code; with --weights-only it is not read. Save the "
            "weights alone, torch.save(model.state_dict(), ...), and put model.py with build_model() beside them"
        )
    content = _load_pickle(file, namespace, device)
    if isinstance(content, torch.nn.Module):
        return content.to(device).eval(), Format.PICKLE.value, Rows()
    state = state_dict_in(
        content
    )  # of a checkpoint that holds more than weights, such as the script's arguments
    if state is not None:
        return build(folder, namespace, file, state).to(device).eval(), _CHECKPOINT, Rows()
    held = f"a {type(content).__name__}"
    if isinstance(content, dict):
        held = f"a dict with {', '.join(map(repr, list(content)[:5]))}"
    raise ConfigError(
        f"{file}: holds {held}, expected a torch.nn.Module or a state dict; save the whole model: "
        f"torch.save(model, {MODEL_FILE!r})"
    )


def _load_script(file: Path, device: torch.device) -> torch.nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model: torch.nn.Module = torch.jit.load(file, map_location=device)  # type: ignore[no-untyped-call]
    except Exception as error:  # it raises what it happens to meet
        raise ConfigError(
            f"{file}: torch.jit.load cannot read it: {type(error).__name__}: {_first_line(error)}; this worker "
            f"has torch {torch.__version__}"
        ) from error
    return model.eval()


def _read_weights(file: Path, device: torch.device) -> object:
    """What a pickle holds if that is tensors and plain values; None if reading it would run code."""
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        return None
    except Exception as error:
        raise _unreadable(file, error) from error


def _load_pickle(file: Path, namespace: Namespace, device: torch.device) -> object:
    log.info(
        "loading %s: a pickle is code and runs with this process's rights; serve only models you trust", file
    )
    try:
        content: object = torch.load(
            file, map_location=device, weights_only=False, pickle_module=namespace.pickle_module
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{file}: the model refers to module {error.name!r}, which is neither in the folder nor "
            f"installed; put {(error.name or '').split('.')[0]}.py beside {file.name} or install the package"
        ) from error
    except ScriptClassError as error:
        raise ConfigError(
            f"{file}: {error} is a class that was defined in the training script (__main__), which no other program "
            "can find: move it to a file of its own beside the model, import it from there, and save the model again"
        ) from error
    except AttributeError as error:
        raise ConfigError(
            f"{file}: a class of the model cannot be found ({error}): put the file beside {file.name} that the model "
            "was saved with, or save the model again with the one that is there"
        ) from error
    except (
        BaseException
    ) as error:  # unpickling runs the folder's code, which may raise anything, and call sys.exit()
        raise _unreadable(file, error) from error
    return content


def _unreadable(file: Path, error: BaseException) -> ConfigError:
    return ConfigError(f"{file}: torch.load cannot read it: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    """Of a torch error, whose further lines are a C++ stack."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
