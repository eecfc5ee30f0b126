"""What the renderer does not know is an error; what it writes is compared with kubectl's own in manifests_test.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.kubernetes import kustomize

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "one"},
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "main",
                        "image": "shop/worker:3",
                        "args": ["a", "b"],
                        "env": [{"name": "A", "value": "1"}],
                    }
                ]
            }
        }
    },
}


def folder(tmp_path: Path, patch: object = None, **said: Any) -> Path:
    said = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["one.yaml"],
        **said,
    }
    if patch is not None:
        said["patches"] = [{"path": "patch.yaml"}]
        (tmp_path / "patch.yaml").write_text(yaml.safe_dump(patch))
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(DEPLOYMENT))
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(said))
    return tmp_path


def patch_of(container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        **DEPLOYMENT,
        "spec": {"template": {"spec": {"containers": [{"name": "main", **container}], **spec}}},
    }


def container_of(text: str) -> dict[str, Any]:
    (found,) = yaml.safe_load_all(text)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_a_patch_merges_by_name_replaces_arguments_and_deletes(tmp_path: Path) -> None:
    patch = patch_of({"args": ["c"], "env": [{"name": "B", "value": "yes"}], "image": None})
    container = container_of(kustomize.render(folder(tmp_path, patch)))
    assert container == {
        "name": "main",
        "args": ["c"],
        "env": [{"name": "B", "value": "yes"}, {"name": "A", "value": "1"}],
    }


def test_an_image_keeps_its_tag_and_labels_reach_the_template(tmp_path: Path) -> None:
    text = kustomize.render(
        folder(
            tmp_path,
            images=[{"name": "shop/worker", "newName": "mine/worker"}],
            labels=[{"pairs": {"part": "x"}, "includeTemplates": True}],
            namespace="there",
        )
    )
    (found,) = yaml.safe_load_all(text)
    assert container_of(text)["image"] == "mine/worker:3"
    assert found["metadata"] == {"name": "one", "namespace": "there", "labels": {"part": "x"}}
    assert found["spec"]["template"]["metadata"]["labels"] == {"part": "x"}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"namePrefix": "a-"}, "namePrefix is not known here"),
        ({"kind": "Component"}, "wants apiVersion"),
        ({"resources": ["missing.yaml"]}, "no such file"),
        ({"resources": ["one.yaml", "one.yaml"]}, "twice"),
        ({"images": [{"name": "a", "newTag": "b"}]}, "newName"),
        ({"labels": [{"pairs": {}, "includeSelectors": True}]}, "without selectors"),
        ({"configMapGenerator": [{"name": "a", "files": ["one.yaml"]}]}, "disableNameSuffixHash"),
        ({"patch": {**DEPLOYMENT, "metadata": {"name": "two"}}}, "of which there are 0"),
        ({"patch": patch_of({"$patch": "delete"})}, "patch is not known here"),
    ],
)
def test_what_is_wrong_or_unknown_is_an_error(tmp_path: Path, said: dict[str, Any], error: str) -> None:
    with pytest.raises(kustomize.KustomizeError, match=error):
        kustomize.render(folder(tmp_path, **said))


def test_a_list_of_unknown_keys_is_not_guessed() -> None:
    with pytest.raises(kustomize.KustomizeError, match="it is not known here how this list merges"):
        kustomize.merged({"hostAliases": [{"ip": "1"}]}, {"hostAliases": [{"ip": "2"}]}, "spec.")
