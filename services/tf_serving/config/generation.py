"""From a folder of models and an operator's wishes to the files of a server: what is to be written, and nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from libs.serving.versions import Policy
from services.tf_serving.config import render, settings, synthetic, tfrecord
from services.tf_serving.config.inspection import InspectedModel, InspectedVersion, find
from services.tf_serving.config.naming import NamingError, named
from services.tf_serving.config.placing import Planned, plan
from services.tf_serving.config.render import Flag, ServedModel
from services.tf_serving.config.settings import Batching, Wishes
from services.tf_serving.config.synthetic import Request, Skipped
from services.tf_serving.config.trial import alternatives
from services.tf_serving.execution.batching_parameters import PER_MODEL_FILE
from services.tf_serving.model import warmup
from services.tf_serving.serving.model_configs import LATEST

Trial = Callable[[str, InspectedVersion, Sequence[int]], tuple[list[Request], dict[str, str]]]
"""Requests of so many rows that the version answers, and, by signature, why there are no others."""

AUTO, ON, OFF = "auto", "on", "off"

_MAX_OWN_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator asked for.

    Attributes:
        models: the folder to search.
        out: where the files go.
        base_path: where the server will find what is `models` here.
        config_path: where it will find what is `out` here.
        batching: AUTO, ON or OFF.
        policy: of models that `policies` does not name, by key or folder.
        labels: version numbers by model (key, folder or name) and label.
        skip_bad: leave models out that cannot be served, instead of writing nothing.
        trial: tries warm-up requests that may be refused; None leaves them out.
    """

    models: Path
    out: Path
    base_path: str
    config_path: str
    wishes: Wishes
    batching: str = AUTO
    names: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)
    policy: Policy = LATEST
    policies: Mapping[str, Policy] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    instances: tuple[str, ...] = ("127.0.0.1:8500",)
    timeout_ms: int = 100
    warm_up: bool = True
    trial: Trial | None = None
    overwrite: bool = False
    skip_bad: bool = False

    def policy_of(self, model: InspectedModel) -> Policy:
        """Which versions of the model are to be served."""
        return self.policies.get(model.key) or self.policies.get(model.folder) or self.policy


@dataclass(slots=True)
class Generated:
    """What came of it: files where there are no errors.

    Attributes:
        told: lines about each model.
    """

    files: list[Planned] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Model:
    inspected: InspectedModel
    served: ServedModel
    versions: tuple[InspectedVersion, ...]

    @property
    def batchable(self) -> bool:
        return all(s.batchable for version in self.versions for s in version.signatures.values())


def generate(asked: Asked) -> Generated:
    """Look at the models and plan every file. Raises ModelError, OSError."""
    result = Generated()
    models = _models(asked, result)
    if result.errors:
        return result
    if not models:
        result.errors.append(
            f"{asked.models} holds no model: expected folders such as textcnn/1/ with a saved_model.pb"
        )
        return result
    batching, per_model = _batching(asked, models, result)
    served = [model.served for model in models]
    texts = {
        "models.config": render.models_config(served),
        "monitoring.config": render.monitoring_config(),
        "nodefile.txt": render.node_lines(served, asked.instances, asked.timeout_ms),
        "flags.txt": render.flags(_flags(asked, batching, per_model)),
    }
    if batching:
        texts["batching.config"] = render.batching_config(batching)
    for name, text in sorted(texts.items()):
        result.files.append(_text(asked, asked.out / name, text))
    for model in models:
        batches = batching if batching and (model.batchable or not per_model) else None
        result.told += _told(model, bool(batches))
        for version in model.versions:
            if batches and per_model:
                own = batches.without("num_batch_threads")
                text = render.batching_config(own, "Rows of concurrent requests to this model share a run.")
                result.files.append(_text(asked, version.path / PER_MODEL_FILE, text))
            if asked.warm_up:
                rows = batches.warm_up_rows() if batches else (1,)
                result.files += _warm_up(asked, model, version, rows, result)
    return result


def _models(asked: Asked, result: Generated) -> list[_Model]:
    found, strays = find(asked.models)
    wrong = [f"{stray.path}: {stray.problem}" for stray in strays]
    good: list[tuple[InspectedModel, tuple[InspectedVersion, ...]]] = []
    known = {name for model in found for name in (model.key, model.folder)}
    wrong += [f"--policy {name}=: {name!r} is no model here" for name in asked.policies if name not in known]
    for model in found:
        policy = asked.policy_of(model)
        chosen = _chosen(model, policy)
        bad = [f"{version.path}: {version.problem}" for version in chosen if version.problem]
        missing = sorted((policy.numbers or frozenset()) - {version.number for version in chosen})
        bad += [f"{model.base_path}: there is no version {number}" for number in missing]
        wrong += bad
        result.notes += [
            f"{version.path}: {version.problem}; it is not served"
            for version in model.versions
            if version.problem and version not in chosen
        ]
        if not bad:
            good.append((model, chosen))
    if asked.skip_bad:
        result.notes += [f"{problem}; the model is left out" for problem in wrong]
    else:
        result.errors += wrong
    try:
        names = named({model.key: model.folder for model, _ in good}, asked.names, asked.tasks)
        known |= {model.name for model in names.values()}
        result.errors += [
            f"--label {name}=: {name!r} is no model here" for name in asked.labels if name not in known
        ]
        return [
            _Model(model, _served(asked, model, chosen, names[model.key].name, names[model.key].task), chosen)
            for model, chosen in good
        ]
    except NamingError as error:
        result.errors.append(str(error))
        return []


def _served(
    asked: Asked, model: InspectedModel, chosen: Sequence[InspectedVersion], name: str, task: int | None
) -> ServedModel:
    labels: dict[str, int] = {}
    for alias in (name, model.folder, model.key):
        labels |= asked.labels.get(alias, {})
    numbers = [version.number for version in chosen]
    for label, number in labels.items():
        if number not in numbers:
            raise NamingError(
                f"{name}: label {label!r} is for version {number}, which is not served: served are {numbers}"
            )
    inside = model.base_path.relative_to(asked.models.absolute()).as_posix()
    path = asked.base_path.rstrip("/") if inside == "." else f"{asked.base_path.rstrip('/')}/{inside}"
    policy = asked.policy_of(model)
    return ServedModel(name, path, task, chosen[-1], policy, tuple(sorted(labels.items())))


def _chosen(model: InspectedModel, policy: Policy) -> tuple[InspectedVersion, ...]:
    if policy.numbers is not None:
        return tuple(version for version in model.versions if version.number in policy.numbers)
    return model.versions[-policy.latest :] if policy.latest else model.versions


def _batching(asked: Asked, models: Sequence[_Model], result: Generated) -> tuple[Batching | None, bool]:
    """The parameters, None for no batching; and whether they are for some models alone."""
    alone = [model.served.name for model in models if not model.batchable]
    if asked.batching == OFF or (asked.batching == AUTO and len(alone) == len(models)):
        if asked.batching == AUTO:
            result.notes.append("batching is off: no model has rows that could share a run")
        return None, False
    if alone and asked.batching == ON:
        result.notes.append(
            f"TensorFlow Serving refuses calls to {', '.join(alone)} while batching is on for all models: some of "
            "their signatures have no first dimension of any size; --batching auto switches it on for the others"
        )
    elif alone:
        result.notes.append(
            f"rows of {', '.join(alone)} cannot share a run, so batching is on by model: each version's folder of "
            f"the others has a {PER_MODEL_FILE}, and a later version needs one as well"
        )
    return settings.batching(asked.wishes), bool(alone) and asked.batching == AUTO


def _flags(asked: Asked, batching: Batching | None, per_model: bool) -> Iterator[Flag]:
    at = asked.config_path.rstrip("/")
    yield Flag(f"--model_config_file={at}/models.config")
    yield Flag("--model_config_file_poll_wait_seconds=60", "An edit of that file is followed")
    yield Flag(f"--monitoring_config_file={at}/monitoring.config")
    yield Flag(
        "--allow_version_labels_for_unavailable_models=true",
        "Labels are looked at before versions are loaded: with this one that is not in use yet may be for any",
    )
    if not batching:
        return
    yield Flag("--enable_batching=true", "Rows of concurrent requests share a run")
    yield Flag(f"--batching_parameters_file={at}/batching.config")
    if per_model:
        yield Flag(
            "--enable_per_model_batching_parameters=true",
            f"Only models with a {PER_MODEL_FILE} are batched; of the file above the threads alone count",
        )
    if not asked.wishes.gpu:
        yield Flag(
            "--tensorflow_intra_op_parallelism=1",
            "The cores are shared among batches; sharing one batch among them as well costs hand-overs. Without "
            "this flag a lone call to a large model is quicker",
        )


def _warm_up(
    asked: Asked, model: _Model, version: InspectedVersion, rows: Sequence[int], result: Generated
) -> Iterator[Planned]:
    file = version.path / warmup.FILE
    present = file.read_bytes() if file.exists() else b""
    if present and not asked.overwrite and not _all_ours(present):
        yield plan(file, b"", _all_ours, overwrite=False)  # theirs stays, whatever ours would be
        return
    tried = set(tfrecord.decode(present)) if _all_ours(present) else set()
    if asked.trial:
        made, skipped = asked.trial(model.served.name, version, rows)
    else:
        made, skipped = _untried(model.served.name, version, rows, tried)
    reasons: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        reasons.setdefault(reason, []).append(name)
    result.notes += [
        f"{model.served.name} version {version.number}: no warm-up request for {', '.join(names)}: {reason}"
        for reason, names in reasons.items()
    ]
    if made:
        records = synthetic.file_records(made)
        yield plan(file, tfrecord.encode(records), _all_ours, overwrite=asked.overwrite)


def _untried(
    name: str, version: InspectedVersion, rows: Sequence[int], tried: set[bytes]
) -> tuple[list[Request], dict[str, str]]:
    """Requests that no model refuses, or that this one has answered before, and why there are no others."""
    made, skipped = list[Request](), dict[str, str]()
    for one in synthetic.requests(name, version.signatures, rows):
        if isinstance(one, Skipped):
            skipped.setdefault(one.signature, one.reason)
            continue
        known = (
            [request for request in alternatives(name, version, one) if request.record in tried]
            if tried
            else []
        )
        if one.certain or known:
            made.append(known[0] if known else one)
        else:
            skipped.setdefault(one.signature, f"{one.doubt}; --try-warm-up finds out")
    return made, skipped


def _all_ours(content: bytes) -> bool:
    # Ours are kilobytes; whatever is as large as recorded traffic need not be read.
    records = tfrecord.decode(content) if len(content) <= _MAX_OWN_BYTES else []
    return bool(records) and all(map(synthetic.is_ours, records))


def _text(asked: Asked, path: Path, text: str) -> Planned:
    mark = render.MARK.encode()
    return plan(path, text.encode(), lambda before: before.startswith(mark), overwrite=asked.overwrite)


def _told(model: _Model, batched: bool) -> Iterator[str]:
    versions = ", ".join(str(version.number) for version in model.versions)
    task = "no task" if model.served.task is None else f"task {model.served.task}"
    how = "batched" if batched else "not batched"
    yield f"{model.served.name}: {model.served.base_path}, version {versions}, {task}, {how}"
