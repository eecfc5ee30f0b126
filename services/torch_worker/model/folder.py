"""Model folders: model.pth with the class files it refers to, optional processor.py, optional config.toml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.torch_worker.config import ConfigError
from services.torch_worker.model.model_config import ModelConfig, parse_model_config

MODEL_FILE = "model.pth"
PROCESSOR_FILE = "processor.py"
CONFIG_FILE = "config.toml"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files were found and whose config.toml was read; nothing of it was executed yet."""

    path: Path
    model_file: Path
    processor_file: Path | None
    config: ModelConfig


def open_folder(path: Path) -> ModelFolder:
    """Find the parts of the model folder at path.

    Raises:
        ConfigError: the folder or model.pth is missing, or config.toml is wrong.
    """
    path = path.absolute()
    if not path.is_dir():
        raise ConfigError(f"{path}: no such model folder; --model-dir names a folder that holds {MODEL_FILE}")
    model_file = path / MODEL_FILE
    if not model_file.is_file():
        found = sorted(p.name for p in path.iterdir())[:12]
        raise ConfigError(
            f"{model_file}: no such file; save the whole model there with torch.save(model, {MODEL_FILE!r}) "
            f"(the folder holds: {', '.join(found) or 'nothing'})"
        )
    processor_file = path / PROCESSOR_FILE
    config_file = path / CONFIG_FILE
    config = ModelConfig()
    if config_file.is_file():
        try:
            text = config_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config_file}: cannot be read: {error}") from error
        config = parse_model_config(text, config_file)
    return ModelFolder(path, model_file, processor_file if processor_file.is_file() else None, config)
