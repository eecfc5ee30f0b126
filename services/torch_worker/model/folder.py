"""Model folders: a model file or a class, the code that belongs to it, optional processor.py and config.toml."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from pathlib import Path

from libs.serving.version_folders import is_version
from services.torch_worker.config import ConfigError
from services.torch_worker.model.model_config import ModelConfig, parse_model_config

MODEL_FILE = "model.pth"
# A folder of the original's has model.pth, whatever lies beside it. Of the others, there may be one.
MODEL_FILES = (
    MODEL_FILE,
    "model.pt",
    "model.pt2",
    "model.safetensors",
    "weights.pth",
    "weights.pt",
    "weights.safetensors",
)
PROCESSOR_FILE = "processor.py"
BUILDER_FILE = "model.py"
CONFIG_FILE = "config.toml"
REQUIREMENTS_FILE = "requirements.txt"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files were found and whose config.toml was read; nothing of it was executed yet.

    Attributes:
        path: absolute.
        model_file: the model or its weights; None where the model is a class.
        processor_file: with the hooks; None where there is none, or the model is a class, which has no hooks.
        config: config.toml's.
        class_path: "module.Class" of the Seldon-style class that is the model; None where there is a model file.
    """

    path: Path
    model_file: Path | None
    processor_file: Path | None
    config: ModelConfig
    class_path: str | None = None


def is_model_folder(path: Path) -> bool:
    """Whether a folder holds a model itself, and not versions. Everything that tells these apart asks this.

    A folder with a model file, a config.toml or a class that could be the model is a model, also if folders named by
    numbers lie in it. Without such folders, any *.py makes it a (broken) model; beside them, a script such as train.py
    does not. Nothing is executed.
    """
    try:
        with os.scandir(path) as entries:
            names = {entry.name: entry.is_dir() for entry in entries}
    except OSError:
        return False
    if any(name in MODEL_FILES or name == CONFIG_FILE for name in names):
        return True
    sources = [name for name in names if name.endswith(".py")]
    if any(is_version(name) and is_folder for name, is_folder in names.items()):
        return any(_defines_model(path / name) for name in sources)
    return bool(sources)


def open_folder(path: Path) -> ModelFolder:
    """Find the parts of the model folder at path.

    Raises:
        ConfigError: the folder or its model is missing, or not told apart from others, or config.toml is wrong.
    """
    path = path.absolute()
    if not path.is_dir():
        raise ConfigError(f"{path}: no such model folder; --model-dir names a folder that holds {MODEL_FILE}")
    config = _read_config(path / CONFIG_FILE)
    if config.class_name is not None and config.file is not None:
        raise ConfigError(
            f"{path / CONFIG_FILE}: [model] names both a file and a class; the model is one of them"
        )
    if config.class_name is not None:
        return ModelFolder(path, None, None, config, _class_path(path, config.class_name))
    model_file = _find_model_file(path, config.file)
    if model_file is None:
        return ModelFolder(path, None, None, config, _find_class(path))
    processor_file = path / PROCESSOR_FILE
    return ModelFolder(path, model_file, processor_file if processor_file.is_file() else None, config)


def _read_config(file: Path) -> ModelConfig:
    if not file.is_file():
        return ModelConfig()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    return parse_model_config(text, file)


def _find_model_file(path: Path, wanted: str | None) -> Path | None:
    if wanted is not None:
        if not (path / wanted).is_file():
            raise ConfigError(f"{path / wanted}: no such file; {CONFIG_FILE} names it as the model file")
        return path / wanted
    found = [name for name in MODEL_FILES if (path / name).is_file()]
    if len(found) > 1 and found[0] != MODEL_FILE:
        raise ConfigError(
            f"{path}: holds several models, {', '.join(found)}; say which one in {CONFIG_FILE}: "
            f'[model] file = "{found[0]}"'
        )
    return path / found[0] if found else None


def _class_path(path: Path, name: str) -> str:
    """As seldon-core: MyModel is the class of that name in MyModel.py."""
    if "." not in name:
        name = f"{name}.{name}"
    module = name.rpartition(".")[0].replace(".", "/")
    if not (path / f"{module}.py").is_file() and not (path / module / "__init__.py").is_file():
        raise ConfigError(
            f"{path / module}.py: no such file; {CONFIG_FILE} names the class {name.rpartition('.')[2]} in it"
        )
    return name


def _find_class(path: Path) -> str:
    """The one file of the folder that defines a class of its own name with a method predict, read but not executed."""
    found = [file.stem for file in sorted(path.glob("*.py")) if _defines_model(file)]
    if len(found) > 1:
        raise ConfigError(
            f"{path}: several classes could be the model, {', '.join(found)}; say which one in {CONFIG_FILE}: "
            f'[model] class = "{found[0]}"'
        )
    if found:
        return f"{found[0]}.{found[0]}"
    holds = sorted(p.name for p in path.iterdir())[:12]
    versions = [name for name in holds if is_version(name)]
    if versions and CONFIG_FILE in holds:
        raise ConfigError(
            f"{path / CONFIG_FILE}: stands beside versions ({', '.join(versions)}) and holds for none of them; move it "
            f"into each, such as {path / versions[0] / CONFIG_FILE}"
        )
    raise ConfigError(
        f"{path / MODEL_FILE}: no such file; save the whole model there with torch.save(model, {MODEL_FILE!r}), or put "
        f"there one of {', '.join(MODEL_FILES[1:])}, or MyModel.py with a class MyModel that has predict (the folder "
        f"holds: {', '.join(holds) or 'nothing'})"
    )


def _defines_model(file: Path) -> bool:
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return False
    return any(
        isinstance(node, ast.ClassDef)
        and node.name == file.stem
        and any(
            isinstance(method, ast.FunctionDef) and method.name in ("predict", "predict_raw")
            for method in node.body
        )
        for node in body
    )
