"""Whether the models of a ModelServerConfig are there, whole, and as the file says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.tf_serving.config.checking import Report, check_batching, read
from services.tf_serving.config.inspection import InspectedModel, InspectedVersion, describe, find, inspect
from services.tf_serving.config.text_tree import Mistake
from services.tf_serving.config.warm_up_check import problems as warm_up_problems
from services.tf_serving.execution.batching_parameters import PER_MODEL_FILE, BatchingParameters
from services.tf_serving.model import warmup
from services.tf_serving.model.versions import ModelError, Version, latest, scan
from services.tf_serving.serving import model_configs
from services.tf_serving.serving.model_configs import ModelConfig

Player = Callable[[str, InspectedVersion, Sequence[bytes]], str]
"""Loads a version and plays its records; why it cannot, "" if it can."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the models are here.

    Attributes:
        models: the folder; None where the file's paths are this machine's.
        base_path: what the file calls it.
    """

    models: Path | None
    base_path: Path

    def local(self, path: Path) -> Path:
        """Where a path of the file is here."""
        if self.models is not None and path.is_relative_to(self.base_path):
            return self.models / path.relative_to(self.base_path)
        return path


@dataclass(frozen=True, slots=True)
class Batched:
    """Which batching the server will do.

    Attributes:
        parameters: of the server; None for no batching.
        per_model: whether only versions with parameters of their own are batched.
    """

    parameters: BatchingParameters | None = None
    per_model: bool = False


def check_models(
    file: Path, places: Places, batched: Batched, report: Report, player: Player | None = None
) -> None:
    """A ModelServerConfig, and the models' files."""
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    found = read(file, ModelServerConfig(), report)
    if found is None:
        return
    message, fitted, mistakes = found
    wrong = list(model_configs.problems(message))
    mistakes += [Mistake(fitted.line(problem.where), problem.where, problem.message) for problem in wrong]
    models = message.model_config_list.config
    if not models and not mistakes:
        mistakes.append(Mistake(1, "model_config_list", "names no model: expected config { ... }"))
    others: list[str] = []
    used: set[Path] = set()
    for index, model in enumerate(models):
        where = f"model_config_list.config[{index}]"
        if any(problem.where.startswith((f"{where}.base_path", f"{where}.model_v")) for problem in wrong):
            continue
        policy = model_configs.policy_of(model.model_version_policy)
        config = ModelConfig(model.name, Path(model.base_path), policy, dict(model.version_labels))
        base = places.local(config.base_path)
        used.add(base.absolute())
        check = _ModelCheck(config, base, batched, report, others, player)
        for inside, line_of, why in check.mistakes():
            line = fitted.line(f"{where}.{line_of}")
            mistakes.append(Mistake(line, f"{where}.{inside}", why))
    report.add(file, mistakes)
    report.mistakes += others
    if places.models is not None:
        report.notes += _unnamed(places.models, used, file)


def _unnamed(folder: Path, used: set[Path], file: Path) -> Iterator[str]:
    try:
        found: list[InspectedModel] = find(folder)[0]
    except ModelError as error:
        yield str(error)
        return
    for model in found:
        if model.base_path not in used:
            yield f"{model.base_path} is not in {file}"


@dataclass(frozen=True, slots=True)
class _ModelCheck:
    config: ModelConfig
    base: Path
    batched: Batched
    report: Report
    others: list[str]
    player: Player | None

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """The field inside the model's config, the field whose line is meant, and what is wrong."""
        try:
            latest(self.base)
            versions = scan(self.base)
        except ModelError as error:
            yield "base_path", "base_path", f"{error}{self._hint()}"
            return
        chosen = list(self._chosen(versions))
        there = ", ".join(str(version.number) for version in versions)
        numbers = {version.number for version in chosen}
        for place, number in enumerate(sorted(self.config.policy.numbers or ())):
            if number not in numbers:
                inside = f"model_version_policy.specific.versions[{place}]"
                why = f"version {number} is not in {self.base}, which has {there}"
                yield "model_version_policy.specific.versions", inside, why
        for label, number in sorted(self.config.labels.items()):
            if number not in numbers:
                served = ", ".join(map(str, sorted(numbers))) or "none"
                why = f"label {label!r} is for version {number}, which is not served: served are {served}"
                yield "version_labels", "version_labels", why
        inspected = [inspect(version.number, version.path) for version in chosen]
        self._summarise(inspected)
        for version in inspected:
            if version.problem:
                yield "base_path", "base_path", f"version {version.number}: {version.problem}"
            else:
                self._check_version(version)

    def _hint(self) -> str:
        if self.base.exists() or self.base != self.config.base_path:
            return ""
        return "; if that is the server's path, --models DIR and --base-path say where it is here"

    def _chosen(self, versions: Sequence[Version]) -> Iterator[Version]:
        policy = self.config.policy
        if policy.numbers is not None:
            return (version for version in versions if version.number in policy.numbers)
        return iter(versions[-policy.latest :] if policy.latest else versions)

    def _check_version(self, version: InspectedVersion) -> None:
        parameters = self._parameters(version)
        if parameters is not None:
            alone = [name for name, s in version.signatures.items() if not s.batchable]
            if alone:
                self.report.notes.append(
                    f"{version.path}: with batching, TensorFlow Serving refuses calls to {', '.join(alone)}: no "
                    "first dimension of any size; batching by model (tf-serving config) leaves such models out"
                )
        file = version.path / warmup.FILE
        if not file.exists():
            self.report.notes.append(f"{version.path} has no warm-up requests: its first callers wait longer")
            return
        most = parameters.max_batch_size if parameters is not None else None
        count, wrong = warm_up_problems(file, version.signatures, most)
        self.others.extend([f"{file}: {problem}" for problem in wrong])
        self.report.summary.append(f"  version {version.number} is warmed up by {count} requests")
        if self.player is not None and not wrong:
            problem = self.player(self.config.name, version, warmup.read(file))
            if problem:
                self.others.append(f"{file}: {problem}")

    def _parameters(self, version: InspectedVersion) -> BatchingParameters | None:
        if self.batched.parameters is None or not self.batched.per_model:
            return self.batched.parameters
        file = version.path / PER_MODEL_FILE
        if not file.exists():
            self.report.notes.append(f"{version.path} is not batched: it has no {PER_MODEL_FILE}")
            return None
        own = Report()
        parameters = check_batching(file, own)
        self.others.extend(own.mistakes)
        self.report.notes += own.notes
        return parameters

    def _summarise(self, versions: Sequence[InspectedVersion]) -> None:
        names: Mapping[int, list[str]] = {version.number: [] for version in versions}
        for label, number in sorted(self.config.labels.items()):
            names.get(number, []).append(label)
        told = ", ".join(
            f"{number} ({', '.join(labels)})" if labels else str(number) for number, labels in names.items()
        )
        self.report.summary.append(f"{self.config.name}: {self.config.base_path}, version {told}")
        for name, signature in versions[-1].signatures.items() if versions else ():
            self.report.summary.append(f"  {name}: {describe(signature)}")
