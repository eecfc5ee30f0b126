"""TensorFlow Serving's monitoring file: a MonitoringConfig message in protobuf's text format."""

from __future__ import annotations

from pathlib import Path

from services.tf_serving.model.text_places import places
from services.tf_serving.options import Options

DEFAULT_PATH = "/monitoring/prometheus/metrics"
"""TensorFlow Serving's own."""

_PATH = "prometheus_config.path"
_TAKEN = ("/metrics", "/health/live", "/health/ready")


class MonitoringConfigError(Exception):
    """The file cannot be read, is no MonitoringConfig, or asks for what cannot be. Says where."""


def metrics_path(options: Options) -> str:
    """Where the metrics are to be served; "" for nowhere.

    Raises:
        MonitoringConfigError: the file is wrong; names file, line and field.
    """
    return read(Path(options.monitoring_config_file)) if options.monitoring_config_file else ""


def read(file: Path) -> str:
    """The same of a file."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise MonitoringConfigError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MonitoringConfigError(f"{file}: not text: {error}") from error
    return parse(text, str(file))


def parse(text: str, source: str) -> str:
    """The same of a text; `source` stands before the line in errors."""
    from google.protobuf import text_format

    from libs.proto.messages import MonitoringConfig

    try:
        config = text_format.Parse(text, MonitoringConfig()).prometheus_config
    except text_format.ParseError as error:
        raise MonitoringConfigError(f"{source}:{error}") from error
    path: str = config.path or DEFAULT_PATH
    problem = _problem(path)
    if problem:
        raise MonitoringConfigError(f"{source}:{places(text, [])[_PATH]}: {_PATH}: {problem}, got {path!r}")
    return path if config.enable else ""


def _problem(path: str) -> str:
    """What is wrong with a path; "" if nothing is."""
    if not path.startswith("/") or set(path) & set("{}?#% "):
        return f"expected a path such as {DEFAULT_PATH}"
    if path in _TAKEN or path.startswith("/v1/"):
        return "expected a path where nothing else is served"
    return ""
