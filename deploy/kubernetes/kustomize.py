"""Renders the part of kustomize that the manifests use, for tests on machines without a new kubectl.

Debian's kubectl is too old for `labels` with templates, so what is looked at in `golden/` would go unchecked there.
Whatever is not known here is an error, never left out: kustomize.config.k8s.io/v1beta1, of which a kustomization may
have resources (files, folders), namespace, labels, images (newName), patches (strategic merges, from files),
configMapGenerator (files) and generatorOptions.disableNameSuffixHash.

The text is what `kubectl kustomize` 5.5 writes, byte for byte: keys sorted, objects in its order of kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]


class KustomizeError(Exception):
    """What a kustomization says is wrong, or not known here."""


# Lists that a strategic merge merges by a key (patchMergeKey in Kubernetes' API types), and those that it replaces.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "topologySpreadConstraints": "topologyKey",
}
REPLACED = {"args", "command", "tolerations"}
# kustomize's legacy order: what others need comes first, what changes admission last; the rest by name of kind.
FIRST = """Namespace ResourceQuota StorageClass CustomResourceDefinition ServiceAccount PodSecurityPolicy Role
ClusterRole RoleBinding ClusterRoleBinding ConfigMap Secret Endpoints Service LimitRange PriorityClass PersistentVolume
PersistentVolumeClaim Deployment StatefulSet CronJob PodDisruptionBudget""".split()
CLUSTER_WIDE = set(
    """Namespace StorageClass CustomResourceDefinition PodSecurityPolicy ClusterRole ClusterRoleBinding PriorityClass
PersistentVolume""".split()
)


def render(folder: Path) -> str:
    """Returns the YAML of every object of the kustomization in `folder`, in the order that kubectl prints.

    Raises KustomizeError for a kustomization that is wrong, or has what is not known here.
    """
    objects = sorted(build(folder), key=place)
    return "---\n".join(yaml.dump(found, Dumper=GoStyle, default_flow_style=False) for found in objects)


class GoStyle(yaml.SafeDumper):
    """Strings as Go's YAML writes them: lines as a block, what would read as another type in double quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        tag = self.resolve(yaml.ScalarNode, data, (True, False))  # type: ignore[no-untyped-call]
        plain = tag == "tag:yaml.org,2002:str"
        style = "|" if "\n" in data else None if plain else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


GoStyle.add_representer(str, GoStyle.text)


def place(found: Object) -> tuple[int, str, str, str, str]:
    group, _, version = found["apiVersion"].rpartition("/")
    kind = found["kind"]
    order = FIRST.index(kind) if kind in FIRST else len(FIRST)
    return (order, group, version, kind, found["metadata"]["name"])


def build(folder: Path) -> list[Object]:
    path = folder / "kustomization.yaml"
    (said,) = read(path)
    taken = Taken(path, said)
    if (taken("apiVersion"), taken("kind")) != ("kustomize.config.k8s.io/v1beta1", "Kustomization"):
        raise KustomizeError(f"{path}: wants apiVersion kustomize.config.k8s.io/v1beta1, kind Kustomization")
    objects: list[Object] = []
    for resource in taken("resources") or []:
        objects += build(folder / resource) if (folder / resource).is_dir() else read(folder / resource)
    options = taken("generatorOptions") or {}
    for entry in taken("configMapGenerator") or []:
        if options != {"disableNameSuffixHash": True} or entry.keys() != {"name", "files"}:
            raise KustomizeError(
                f"{path}: a generator needs disableNameSuffixHash, name and files, and no more"
            )
        data = {Path(file).name: (folder / file).read_text() for file in entry["files"]}
        named = {"name": entry["name"]}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": data})
    for entry in taken("patches") or []:
        if entry.keys() != {"path"}:
            raise KustomizeError(f"{path}: a patch has a path and nothing else")
        for patch in read(folder / entry["path"]):
            at = one(objects, patch, path)
            objects[at] = merged(objects[at], patch, f"{entry['path']}: ")
    for entry in taken("images") or []:
        if entry.keys() != {"name", "newName"}:
            raise KustomizeError(f"{path}: an image has name and newName, and nothing else")
        for container in (held for found in objects for held in containers(found)):
            name, colon, tag = container["image"].partition(":")
            if name == entry["name"]:
                container["image"] = entry["newName"] + colon + tag
    for entry in taken("labels") or []:
        label(objects, entry, path)
    if namespace := taken("namespace"):
        for found in objects:
            if found["kind"] not in CLUSTER_WIDE:
                found["metadata"]["namespace"] = namespace
    taken.whole()
    seen = [identity(found) for found in objects]
    if twice := sorted({str(entry) for entry in seen if seen.count(entry) > 1}):
        raise KustomizeError(f"{path}: twice {', '.join(twice)}")
    return objects


class Taken:
    """A mapping of which each entry must be asked for."""

    def __init__(self, path: Path, said: Object) -> None:
        self._path = path
        self._left = dict(said)

    def __call__(self, name: str) -> Any:
        return self._left.pop(name, None)

    def whole(self) -> None:
        if self._left:
            raise KustomizeError(f"{self._path}: {', '.join(sorted(self._left))} is not known here")


def read(path: Path) -> list[Object]:
    try:
        return [found for found in yaml.safe_load_all(path.read_text()) if found is not None]
    except FileNotFoundError:
        raise KustomizeError(f"{path}: no such file") from None


def identity(found: Object) -> tuple[str, str, str]:
    return (found["apiVersion"], found["kind"], found["metadata"]["name"])


def one(objects: list[Object], patch: Object, path: Path) -> int:
    at = [number for number, found in enumerate(objects) if identity(found) == identity(patch)]
    if len(at) != 1:
        raise KustomizeError(f"{path}: a patch for {identity(patch)}, of which there are {len(at)}")
    return at[0]


def label(objects: list[Object], entry: Object, path: Path) -> None:
    templates = entry.get("includeTemplates", False)
    if entry.keys() - {"pairs", "includeTemplates", "includeSelectors"} or entry.get("includeSelectors"):
        raise KustomizeError(f"{path}: labels are pairs with includeTemplates, without selectors")
    for found in objects:
        wanted: list[Object] = [found["metadata"]]
        if templates and (template := found.get("spec", {}).get("template")):
            wanted.append(template.setdefault("metadata", {}))
        for metadata in wanted:
            metadata["labels"] = {**metadata.get("labels", {}), **entry["pairs"]}


def containers(found: Object) -> Iterator[Object]:
    pod = found.get("spec", {}).get("template", {}).get("spec", {})
    yield from pod.get("initContainers", [])
    yield from pod.get("containers", [])


def merged(old: Any, new: Any, where: str, key: str = "") -> Any:
    """Returns `old` as a strategic merge of `new` leaves it; null deletes. Lists go by MERGE_KEYS or are replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = dict(old)
        for name, value in new.items():
            if name.startswith("$"):
                raise KustomizeError(f"{where}{name} is not known here")
            if value is None:
                out.pop(name, None)
            else:
                out[name] = merged(out[name], value, f"{where}{name}.", name) if name in out else value
        return out
    if isinstance(old, list) and isinstance(new, list) and key not in REPLACED:
        if key not in MERGE_KEYS:
            raise KustomizeError(f"{where[:-1]}: it is not known here how this list merges")
        return merged_list(old, new, MERGE_KEYS[key], lambda a, b: merged(a, b, where))
    return new


def merged_list(
    old: list[Object], new: list[Object], key: str, merge: Callable[[Object, Object], Object]
) -> list[Object]:
    by_key = {entry[key]: entry for entry in old}
    for entry in new:
        by_key[entry[key]] = merge(by_key[entry[key]], entry) if entry[key] in by_key else entry
    # kustomize puts what a patch adds in front.
    added = [entry[key] for entry in new if entry[key] not in {held[key] for held in old}]
    return [by_key[name] for name in added + [held[key] for held in old]]
