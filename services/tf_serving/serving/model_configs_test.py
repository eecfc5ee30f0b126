from __future__ import annotations

from pathlib import Path

import pytest

from libs.serving.versions import Policy
from services.tf_serving.model.versions import ModelError
from services.tf_serving.serving.model_configs import LATEST, ModelConfig, labels_of, parse, read


def config(body: str, name: str = "m") -> str:
    return f'config {{ name: "{name}" base_path: "/models/m" model_platform: "tensorflow" {body} }}'


def test_policies_and_labels() -> None:
    text = "\n".join(
        [
            "model_config_list {",
            config("", "plain"),
            config("model_version_policy { latest { num_versions: 2 } }", "two"),
            config("model_version_policy { latest {} }", "one"),
            config("model_version_policy { all {} }", "all"),
            config(
                "model_version_policy { specific { versions: 1 versions: 42 } } "
                'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 42 }',
                "some",
            ),
            'config { name: "old" base_path: "/o" model_type: TENSORFLOW }',
            "}",
        ]
    )
    models = parse(text, "f")
    base = Path("/models/m")
    labels = {"stable": 1, "canary": 42}
    assert models == (
        ModelConfig("plain", base),
        ModelConfig("two", base, Policy(latest=2)),
        ModelConfig("one", base, LATEST),
        ModelConfig("all", base, Policy()),
        ModelConfig("some", base, Policy(numbers=frozenset({1, 42})), labels),
        ModelConfig("old", Path("/o")),
    )
    assert labels_of(models) == {"some": labels}


@pytest.mark.parametrize("text", ["", "model_config_list {}"])
def test_no_model_is_a_configuration_too(text: str) -> None:
    assert parse(text, "f") == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            'model_config_list {\n  config { nam: "x" }\n}',
            'models.config:2:12 : Message type "tensorflow.serving.ModelConfig" has no field named "nam"',
        ),
        ("model_config_list {", ': Expected "}"'),
        (
            f"model_config_list {{\n{config('')}\n{config('')}\n}}",
            "models.config:3: model_config_list.config[1].name: Illegal to list model m multiple times in config list",
        ),
        (
            'model_config_list {\n config {\n name: "m"\n base_path: "m"\n model_platform: "tensorflow" } }',
            "models.config:4: model_config_list.config[0].base_path: Expected model m to have an absolute path or URI; "
            "got base_path()=m",
        ),
        (
            'model_config_list {\n config {\n name: "m"\n base_path: "/m"\n } }',
            "models.config:2: model_config_list.config[0].model_platform: Illegal setting neither",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "torch" } }',
            "models.config:1: model_config_list.config[0].model_platform: Model m requests unsupported platform torch",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_type: OTHER } }',
            "config[0].model_type: ModelServerConfig::model_type choice 2 not supported",
        ),
        (
            f"model_config_list {{ {config('model_type: TENSORFLOW')} }}",
            "config[0].model_type: Illegal setting both",
        ),
        ("model_config_list { config { } }", "config[0].name: expected a name"),
        (
            f"model_config_list {{ {config('model_version_policy { specific {} }')} }}",
            "config[0].model_version_policy.specific: no version is named",
        ),
        (
            f"model_config_list {{ {config('model_version_policy { specific { versions: -1 } }')} }}",
            "config[0].model_version_policy.specific.versions: a version is negative",
        ),
        ("custom_model_config {}", "models.config:1: custom_model_config: not supported"),
    ],
)
def test_mistakes_are_told_with_file_line_and_field(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(text)
    with pytest.raises(ModelError) as caught:
        read(file)
    assert str(caught.value).startswith(str(file)) and complaint in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*nowhere: No such file"):
        read(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="binary: not text"):
        read(tmp_path / "binary")
