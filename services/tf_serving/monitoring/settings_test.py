from __future__ import annotations

from pathlib import Path

import pytest

from services.tf_serving.monitoring.settings import (
    DEFAULT_PATH,
    MonitoringConfigError,
    metrics_path,
    parse,
    read,
)
from services.tf_serving.options import Options


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", ""),
        ("prometheus_config {}", ""),
        ("prometheus_config { enable: false path: '/m' }", ""),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config: {\n  enable: true,\n  path: "/m/x"\n}', "/m/x"),
    ],
)
def test_where_the_metrics_are_to_be(text: str, path: str) -> None:
    assert parse(text, "f") == path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prometheus_config {\n  enabled: true\n}", 'f:2:3 : Message type "tensorflow.serving.PrometheusConfig" '
         'should not have multiple|has no field named "enabled"'),
        ("\nprometheus_config {\n  enable: yes\n}", "f:3:11 : "),
        ("prometheus_config {", "f:1:"),
        ("# a\nprometheus_config {\n  path: 'm'\n}", "f:3: prometheus_config.path: expected a path such as "
         f"{DEFAULT_PATH}, got 'm'"),
        ("prometheus_config { path: '/{m}' }", "f:1: prometheus_config.path: expected a path such as"),
        ("prometheus_config { path: '/metrics' }",
         "f:1: prometheus_config.path: expected a path where nothing else is served, got '/metrics'"),
        ("prometheus_config { path: '/v1/models' }", "f:1: prometheus_config.path: expected a path where nothing"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_file_line_and_field(text: str, expected: str) -> None:
    with pytest.raises(MonitoringConfigError) as caught:
        parse(text, "f")
    assert any(part in str(caught.value) for part in expected.split("|"))


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "monitoring.config"
    options = Options("m", "/m", monitoring_config_file=str(file))
    with pytest.raises(MonitoringConfigError, match=f"cannot read {file}: No such file"):
        metrics_path(options)
    file.write_bytes(b"\xff")
    with pytest.raises(MonitoringConfigError, match=f"{file}: not text"):
        read(file)
    file.write_text("prometheus_config { enable: true }")
    assert metrics_path(options) == DEFAULT_PATH
    assert metrics_path(Options("m", "/m")) == ""
