from __future__ import annotations

from pathlib import Path

import pytest

from libs.serving.versions import Policy
from services.tf_serving.config.inspection import InspectedVersion
from services.tf_serving.config.render import Flag, ServedModel, flags, models_config, node_lines
from services.tf_serving.model.signature import Signature, TensorSpec
from services.tf_serving.serving import model_configs


def served(name: str, **more: object) -> ServedModel:
    signature = Signature('a "b"\n', {"x": TensorSpec("x:0", 1, (-1,))}, {"y": TensorSpec("y:0", 1, ())})
    version = InspectedVersion(3, Path("/m/3"), {signature.name: signature})
    values = {
        "base_path": f"/models/{name}",
        "task": None,
        "newest": version,
        "policy": Policy(latest=1),
    } | more
    return ServedModel(name, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["plain", "模型-7", 'quo"te', "back\\slash", "tab\there", "line\nbreak", "é"]
)
def test_whatever_a_folder_is_called_is_read_back(name: str) -> None:
    (model,) = model_configs.parse(models_config([served(name)]), "f")
    assert (model.name, str(model.base_path)) == (name, f"/models/{name}")


@pytest.mark.parametrize(
    "policy", [Policy(latest=1), Policy(latest=3), Policy(), Policy(numbers=frozenset({1, 20}))]
)
def test_policies_and_labels_are_read_back(policy: Policy) -> None:
    text = models_config([served("m", policy=policy, labels=(("canary", 20), ("stable", 1)))])
    (model,) = model_configs.parse(text, "f")
    assert (model.policy, model.labels) == (policy, {"canary": 20, "stable": 1})
    assert r"# version 3:" in text and r"#   a \042b\042\012: x float [?] -> y float []" in text


def test_flags_are_lines_of_their_own_and_reasons_comments() -> None:
    text = flags([Flag("--a=1"), Flag("--b=2", "Because it is " + "long " * 40 + "so")])
    lines = text.splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["--a=1", "--b=2"]
    assert max(map(len, lines)) <= 120


def test_a_model_without_a_task_is_a_comment() -> None:
    text = node_lines([served("m-7", task=7), served("m")], ["a:1", "b:2"], 50)
    assert text.splitlines()[2:] == [
        "7=50,a:1,b:2  # m-7",
        "# m has no task: --task m=NUMBER, or a name that ends in -NUMBER",
    ]
