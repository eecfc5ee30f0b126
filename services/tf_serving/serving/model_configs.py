"""Which models are to be served, how: from the text format of TensorFlow Serving's ModelServerConfig, or its message.

    model_config_list {
      config {
        name: "textcnn-69"
        base_path: "/models/textcnn"
        model_platform: "tensorflow"
        model_version_policy { specific { versions: 1 versions: 2 } }
        version_labels { key: "stable" value: 1 }
      }
    }
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libs.serving.versions import Policy
from services.tf_serving.model import saved_model
from services.tf_serving.model.text_places import places
from services.tf_serving.model.versions import ModelError, check_saved_model, latest, scan
from services.tf_serving.options import Options
from services.tf_serving.serving.servables import Labels

PLATFORM = "tensorflow"
"""The one platform; TensorFlow Serving's name of it."""
_TYPE_TENSORFLOW = 1
"""ModelConfig.model_type, the platform's deprecated form."""

LATEST = Policy(latest=1)
"""What is served when no policy is given."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model that is to be served.

    Attributes:
        labels: version numbers by label.
    """

    name: str
    base_path: Path
    policy: Policy = LATEST
    labels: Mapping[str, int] = field(default_factory=dict)


class ConfigError(ValueError):
    """A ModelServerConfig that cannot be.

    Attributes:
        where: the field, `model_config_list.config[1].base_path`.
        message: what is wrong with it, in TensorFlow Serving's words where it has some.
    """

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where
        self.message = message


def configured(options: Options) -> tuple[ModelConfig, ...]:
    """The models that the options ask for. Raises ModelError."""
    if options.model_config_file:
        return read(Path(options.model_config_file))
    return (ModelConfig(options.model_name, options.base_path),)


def check(configs: Iterable[ModelConfig]) -> None:
    """Look, without TensorFlow and hence at once, whether each model has a version whose graph can be read.

    Raises:
        ModelError: one has none; says why.
    """
    for config in configs:
        numbers = config.policy.numbers
        chosen = [v for v in scan(config.base_path) if numbers is None or v.number in numbers]
        error: ModelError | None = None
        for version in reversed(chosen):
            try:
                check_saved_model(version.path)
                saved_model.read(version.path)
                break
            except ModelError as problem:
                error = error or problem
        else:
            raise error or none_chosen(config)


def none_chosen(config: ModelConfig) -> ModelError:
    """What is wrong with a base path that holds nothing to serve."""
    try:
        newest = latest(config.base_path)
    except ModelError as error:
        return error
    return ModelError(f"{config.base_path} has version {newest.number}, but none that the policy chooses")


def labels_of(configs: Iterable[ModelConfig]) -> Labels:
    """Version numbers by model and label."""
    return {config.name: dict(config.labels) for config in configs if config.labels}


def read(path: Path) -> tuple[ModelConfig, ...]:
    """The models of a file in the text format.

    Raises:
        ModelError: it cannot be read, or cannot be served; names file, line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not text: {error}") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> tuple[ModelConfig, ...]:
    """The models of a text; `source` is the file's name for errors. Raises ModelError."""
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    try:
        config = text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        raise ModelError(f"{source}:{error}") from error
    try:
        return from_message(config)
    except ConfigError as problem:
        lines = places(text, ["config"])
        # A field that is missing stands nowhere; what it is missing from does.
        line = lines.get(problem.where) or lines.get(problem.where.rpartition(".")[0], 1)
        raise ModelError(f"{source}:{line}: {problem}") from problem


def from_message(config: Any) -> tuple[ModelConfig, ...]:
    """The models of a ModelServerConfig message. Raises ConfigError: the first of its problems."""
    for problem in problems(config):
        raise problem
    return tuple(
        ModelConfig(
            model.name,
            Path(model.base_path),
            policy_of(model.model_version_policy),
            dict(model.version_labels),
        )
        for model in config.model_config_list.config
    )


def problems(config: Any) -> Iterator[ConfigError]:
    """All that is wrong with a ModelServerConfig message by itself."""
    if config.WhichOneof("config") == "custom_model_config":
        yield ConfigError("custom_model_config", "not supported: expected model_config_list")
    names: set[str] = set()
    for index, model in enumerate(config.model_config_list.config):
        where = f"model_config_list.config[{index}]"
        if not model.name:
            yield ConfigError(f"{where}.name", "expected a name")
        elif model.name in names:
            yield ConfigError(
                f"{where}.name", f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
        yield from _platform_problems(where, model)
        if not Path(model.base_path).is_absolute():
            yield ConfigError(
                f"{where}.base_path",
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}",
            )
        yield from _policy_problems(f"{where}.model_version_policy", model.model_version_policy)


def policy_of(policy: Any) -> Policy:
    """The policy of a ServableVersionPolicy message that has no problem."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return Policy()
    if choice == "specific":
        return Policy(numbers=frozenset(policy.specific.versions))
    return Policy(latest=max(policy.latest.num_versions, 1))


def _platform_problems(where: str, model: Any) -> Iterator[ConfigError]:
    if model.model_type:
        if model.model_platform:
            yield ConfigError(
                f"{where}.model_type",
                "Illegal setting both ModelServerConfig::model_type (deprecated) "
                "and ModelServerConfig::model_platform.",
            )
        elif model.model_type != _TYPE_TENSORFLOW:
            yield ConfigError(
                f"{where}.model_type",
                f"ModelServerConfig::model_type choice {model.model_type} not supported.",
            )
    elif not model.model_platform:
        yield ConfigError(
            f"{where}.model_platform",
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f'ModelServerConfig::model_platform. Expected model_platform: "{PLATFORM}"',
        )
    elif model.model_platform != PLATFORM:
        yield ConfigError(
            f"{where}.model_platform",
            f"Model {model.name} requests unsupported platform {model.model_platform}",
        )


def _policy_problems(where: str, policy: Any) -> Iterator[ConfigError]:
    if policy.WhichOneof("policy_choice") != "specific":
        return
    if not policy.specific.versions:
        yield ConfigError(f"{where}.specific", "no version is named: expected versions: 1 and so on")
    elif min(policy.specific.versions) < 0:
        yield ConfigError(f"{where}.specific.versions", "a version is negative: expected 0 or more")
