"""The files of a server as texts. Pure; the same models and wishes give the same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from libs.serving.versions import Policy
from services.tf_serving.config.inspection import InspectedVersion, describe
from services.tf_serving.config.settings import Batching, Setting

MARK = "# Written by `tf-serving config`."
"""The first line of every file; a file without it is somebody else's."""

METRICS_PATH = "/monitoring/prometheus/metrics"
"""TensorFlow Serving's default."""

_WIDTH = 116


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as a server is to have it.

    Attributes:
        name: what requests call it.
        base_path: where the server will find it.
        task: its id at the gateway; None for none.
        newest: the highest version that is there.
    """

    name: str
    base_path: str
    task: int | None
    newest: InspectedVersion
    policy: Policy
    labels: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of the server, with its reason."""

    text: str
    reason: str = field(default="")


def models_config(models: Iterable[ServedModel]) -> str:
    """A ModelServerConfig."""
    lines = [
        MARK,
        "# Models by the name that callers give; the comments are as of the version that they name.",
    ]
    lines += ["model_config_list {"]
    for model in models:
        lines += ["  config {", *_signatures(model.newest)]
        lines += [f"    name: {_quoted(model.name)}", f"    base_path: {_quoted(model.base_path)}"]
        lines += [
            '    model_platform: "tensorflow"',
            f"    model_version_policy {{ {_policy(model.policy)} }}",
        ]
        for label, version in model.labels:
            lines.append(f"    version_labels {{ key: {_quoted(label)} value: {version} }}")
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def batching_config(batching: Batching, what: str = "Rows of concurrent requests share a run.") -> str:
    """BatchingParameters."""
    lines = [MARK, f"# {what}"]
    for setting in batching.settings:
        lines += ["", *_comment(f"{setting.name}: {setting.reason}."), *_values(setting)]
    return "\n".join(lines) + "\n"


def monitoring_config() -> str:
    """A MonitoringConfig."""
    return (
        f"{MARK}\n# Metrics for Prometheus, on the REST port; this path is TensorFlow Serving's default.\n"
        f'prometheus_config {{\n  enable: true\n  path: "{METRICS_PATH}"\n}}\n'
    )


def node_lines(models: Iterable[ServedModel], instances: Sequence[str], timeout_ms: int) -> str:
    """The gateway's node file."""
    lines = [MARK, "# The gateway's tasks: task=timeout in ms,instance,instance ..."]
    for model in models:
        if model.task is None:
            lines.append(
                f"# {model.name} has no task: --task {model.name}=NUMBER, or a name that ends in -NUMBER"
            )
        else:
            lines.append(f"{model.task}={timeout_ms},{','.join(instances)}  # {model.name}")
    return "\n".join(lines) + "\n"


def flags(given: Iterable[Flag]) -> str:
    """A line a flag, reasons above them."""
    lines = [MARK, "# tensorflow_model_server $(grep -v '^#' flags.txt); `tf-serving serve` takes the same."]
    for flag in given:
        lines += [*(_comment(f"{flag.reason}.") if flag.reason else ()), flag.text]
    return "\n".join(lines) + "\n"


def _signatures(version: InspectedVersion) -> Iterator[str]:
    yield f"    # version {version.number}:"
    for name, signature in version.signatures.items():
        batches = "" if signature.batchable else "; its rows cannot share a run"
        told = _escaped(f"{name}: {describe(signature)}{batches}")
        yield from textwrap.wrap(
            told, _WIDTH, initial_indent="    #   ", subsequent_indent="    #     ", break_on_hyphens=False
        )


def _policy(policy: Policy) -> str:
    if policy.numbers is not None:
        return f"specific {{ {' '.join(f'versions: {number}' for number in sorted(policy.numbers))} }}"
    if policy.latest is not None:
        return f"latest {{ num_versions: {policy.latest} }}"
    return "all {}"


def _values(setting: Setting) -> list[str]:
    if isinstance(setting.value, tuple):
        return [f"{setting.name}: {value}" for value in setting.value]
    return [f"{setting.name} {{ value: {setting.value} }}"]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """The inside of a text in quotes."""
    parts = []
    for character in text:
        if character in '"\\' or not character.isprintable():
            parts += [f"\\{byte:03o}" for byte in character.encode()]
        else:
            parts.append(character)
    return "".join(parts)
