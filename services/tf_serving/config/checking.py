"""Whether the files of a server are right by themselves: all that is wrong with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from libs.proto.messages import BatchingParameters as BatchingMessage
from libs.proto.messages import MonitoringConfig
from services.tf_serving.config import text_tree
from services.tf_serving.config.render import METRICS_PATH
from services.tf_serving.config.text_tree import Fitted, Mistake, TextError
from services.tf_serving.execution import batching_parameters
from services.tf_serving.execution.batching_parameters import BatchingParameters


@dataclass(slots=True)
class Report:
    """What was found.

    Attributes:
        mistakes: `FILE:LINE: FIELD: what is wrong`, and for other files `FILE: what is wrong`.
        notes: what is no mistake, but may not be meant so.
        summary: what the files say.
    """

    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)

    def add(self, file: Path, mistakes: Sequence[Mistake]) -> None:
        for mistake in sorted(mistakes, key=lambda mistake: mistake.line):
            where = f"{mistake.field}: " if mistake.field else ""
            self.mistakes.append(f"{file}:{mistake.line}: {where}{mistake.message}")


def check_batching(file: Path, report: Report) -> BatchingParameters | None:
    """The file's parameters, None if there are mistakes."""
    found = read(file, BatchingMessage(), report)
    if found is None:
        return None
    message, fitted, mistakes = found
    values = _batching_values(message)
    for name, why in batching_parameters.problems(values):
        mistakes.append(Mistake(fitted.line(name), name, why))
    report.add(file, mistakes)
    if mistakes:
        return None
    parameters = BatchingParameters(**values)
    if parameters.max_execution_batch_size and not parameters.enable_large_batch_splitting:
        report.notes.append(
            f"{file}:{fitted.line('max_execution_batch_size')}: max_execution_batch_size does nothing without "
            "enable_large_batch_splitting { value: true }"
        )
    sizes = ", ".join(map(str, parameters.allowed_batch_sizes)) or "any size"
    report.summary.append(
        f"{file}: batches of up to {parameters.max_run_rows} rows ({sizes}), "
        f"{parameters.num_batch_threads or 'as many as cores'} at a time, part ones wait "
        f"{parameters.batch_timeout_micros} us, {parameters.max_enqueued_batches} may be queued"
    )
    return parameters


def check_monitoring(file: Path, report: Report) -> None:
    """A MonitoringConfig."""
    found = read(file, MonitoringConfig(), report)
    if found is None:
        return
    message, fitted, mistakes = found
    prometheus = message.prometheus_config
    name = "prometheus_config.path"
    if prometheus.path and not prometheus.path.startswith("/"):
        mistakes.append(Mistake(fitted.line(name), name, f"expected a path from /, got {prometheus.path!r}"))
    report.add(file, mistakes)
    if mistakes:
        return
    if prometheus.enable:
        report.summary.append(f"{file}: metrics at {prometheus.path or METRICS_PATH} of the REST port")
    else:
        report.notes.append(
            f"{file}: there will be no metrics: prometheus_config {{ enable: true }} gives them"
        )


def read(file: Path, message: Any, report: Report) -> tuple[Any, Fitted, list[Mistake]] | None:
    """What of the file fits the message, and what does not."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        report.mistakes.append(f"{file}: cannot be read: {error.strerror}")
        return None
    except UnicodeDecodeError as error:
        report.mistakes.append(f"{file}: not text: {error}")
        return None
    try:
        fitted = text_tree.fit(text_tree.parse(text), message.DESCRIPTOR)
    except TextError as mistake:
        report.mistakes.append(f"{file}:{mistake.line}: {mistake}")
        return None
    try:
        text_format.Parse(fitted.text, message)
        if not fitted.mistakes:
            text_format.Parse(text, type(message)())
    except text_format.ParseError as error:
        report.mistakes.append(f"{file}:{error}")
        return None
    return message, fitted, list(fitted.mistakes)


def _batching_values(message: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            value = value.value
        values[descriptor.name] = tuple(value) if descriptor.name == "allowed_batch_sizes" else value
    return values
