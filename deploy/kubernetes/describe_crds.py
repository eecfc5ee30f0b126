"""Build step: makes JSON schemas of the objects that operators define, out of the classes that they publish.

    python deploy/kubernetes/describe_crds.py 3rdparty/crds/crds.lock deploy/kubernetes/crds.json

The packages hold a class for every message of the operators' OpenAPI documents. Their archives are fetched by hash and
read, not installed: kserve alone would bring seventy packages. The schemas are strict, an unknown field is an error.
What a pod or its metadata may hold is left open ({}) here: Kubernetes' own schemas say that.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
# The kinds that deploy/kubernetes has: the archive that has the kind, the files to read in it, the class.
KINDS = {
    "PodMonitor": ("cloudcoil_models_prometheus_operator", r"cloudcoil/models/\w+/v1\.py", "PodMonitor"),
    "PrometheusRule": (
        "cloudcoil_models_prometheus_operator",
        r"cloudcoil/models/\w+/v1\.py",
        "PrometheusRule",
    ),
    "ServiceMonitor": (
        "cloudcoil_models_prometheus_operator",
        r"cloudcoil/models/\w+/v1\.py",
        "ServiceMonitor",
    ),
    "InferenceService": ("kserve", r"kserve/models/v1\w+\.py", "V1beta1InferenceService"),
    "SeldonDeployment": ("seldon_deploy_sdk", r"seldon_deploy_sdk/models/\w+\.py", "SeldonDeployment"),
}
# Kubernetes' own, by the names that the packages have for them; Seldon's holds old copies of some.
KUBERNETES = re.compile(
    r"V1[A-Z]\w+|K8sIo\w+|Knative\w+|ResourceQuantity|V1beta1MetricQuantity|apimachinery\.\w+"
    r"|Container|ObjectMeta|PodSpec|ResourceRequirements"
)
SCALARS: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "object": {"type": "object"},
    "datetime": {"type": "string"},
    "Any": {},
}
LIMITS = {
    "pattern": "pattern",
    "min_length": "minLength",
    "max_length": "maxLength",
    "ge": "minimum",
    "le": "maximum",
}
FETCH_TIMEOUT_S = 300


def fetch(lock: Path, folder: Path) -> list[zipfile.ZipFile]:
    """Downloads the wheels that `lock` names and opens them; pip checks the hashes and follows its configuration."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
    options = ["--require-hashes", "--only-binary=:all:", "--dest", str(folder), "--requirement", str(lock)]
    subprocess.run([*pip, *options], check=True, timeout=FETCH_TIMEOUT_S)
    return [zipfile.ZipFile(wheel) for wheel in sorted(folder.glob("*.whl"))]


def classes(wheel: zipfile.ZipFile, files: str) -> dict[str, ast.ClassDef]:
    """The classes of the files whose names match, by name."""
    found: dict[str, ast.ClassDef] = {}
    for name in wheel.namelist():
        if re.fullmatch(files, name):
            body = ast.parse(wheel.read(name)).body
            found |= {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    return found


def constant(node: ast.ClassDef, *names: str) -> Any:
    """The literal that the class assigns to one of `names`; None when it does not."""
    for entry in node.body:
        if isinstance(entry, ast.Assign) and ast.unparse(entry.targets[0]) in names:
            return ast.literal_eval(entry.value)
    return None


def closed(properties: Schema, required: list[str]) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": sorted(required),
    }


def swagger_class(node: ast.ClassDef, refer: Callable[[str], Schema]) -> Schema:
    """The schema of a class that the swagger or OpenAPI generator wrote.

    One without fields is a named string. Required is what the setter refuses to be None.
    """
    types: dict[str, str] = constant(node, "swagger_types", "openapi_types")
    names: dict[str, str] = constant(node, "attribute_map")
    if not types:
        return {"type": "string"}
    refused = set(re.findall(r"Invalid value for `(\w+)`, must not be `None`", ast.unparse(node)))

    def schema(said: str) -> Schema:
        if inner := re.fullmatch(r"list\[(.+)\]", said):
            return {"type": "array", "items": schema(inner[1])}
        if inner := re.fullmatch(r"dict\(str, (.+)\)", said):
            return {"type": "object", "additionalProperties": schema(inner[1])}
        return refer(said)

    return closed(
        {names[field]: schema(said) for field, said in types.items()}, [names[field] for field in refused]
    )


def pydantic_class(node: ast.ClassDef, refer: Callable[[str], Schema]) -> Schema:
    """The schema of a pydantic model, from its annotations."""
    properties: Schema = {}
    required = []
    for entry in node.body:
        if isinstance(entry, ast.AnnAssign):
            name = ast.unparse(entry.target)
            alias, schema = annotated(entry.annotation, refer)
            properties[alias or name] = schema
            if entry.value is None:
                required.append(alias or name)
    if properties.keys() == {"root"}:  # a RootModel is its value
        root: Schema = properties["root"]
        return root
    return closed(properties, required)


def annotated(node: ast.expr, refer: Callable[[str], Schema]) -> tuple[str, Schema]:
    """An annotation's alias, empty when it has none, and its schema."""
    if not isinstance(node, ast.Subscript):
        return "", refer(ast.unparse(node))
    outer, inner = ast.unparse(node.value), node.slice
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if outer == "Literal":
        return "", {"enum": [ast.literal_eval(part) for part in parts]}
    if outer == "Annotated":
        _, schema = annotated(parts[0], refer)
        assert isinstance(parts[1], ast.Call)
        said = {word.arg or "": ast.literal_eval(word.value) for word in parts[1].keywords}
        limits = {LIMITS[name]: value for name, value in said.items() if name in LIMITS}
        if "(?i)" in limits.get("pattern", ""):  # Go's place for the flag, no other dialect's
            del limits["pattern"]
        return said.get("alias", ""), {**schema, **limits}
    schemas = [annotated(part, refer)[1] for part in parts]
    match outer:
        case "Optional":
            return "", schemas[0]
        case "List":
            return "", {"type": "array", "items": schemas[0]}
        case "Dict":
            return "", {"type": "object", "additionalProperties": schemas[1]}
        case "Union":
            return "", {"anyOf": schemas}
    sys.exit(f"describe_crds: cannot read the annotation {ast.unparse(node)}")


def definitions(known: dict[str, ast.ClassDef], root: str) -> Iterator[tuple[str, Schema]]:
    """The schema of `root` and of every class that it reaches."""
    waiting, seen = [root], {root}

    def refer(name: str) -> Schema:
        if name in SCALARS:
            return SCALARS[name]
        if KUBERNETES.fullmatch(name):
            return {}
        if name not in known:
            sys.exit(f"describe_crds: nothing is known of {name}, which {root} reaches")
        if name not in seen:
            seen.add(name)
            waiting.append(name)
        return {"$ref": f"#/definitions/{name}"}

    while waiting:
        node = known[waiting.pop()]
        swagger = constant(node, "attribute_map") is not None
        yield node.name, (swagger_class if swagger else pydantic_class)(node, refer)


def main() -> None:
    lock, target = (Path(argument) for argument in sys.argv[1:])
    schemas = {}
    with tempfile.TemporaryDirectory() as folder:
        wheels = {
            Path(wheel.filename or "").name.partition("-")[0]: wheel for wheel in fetch(lock, Path(folder))
        }
        for kind, (package, files, root) in KINDS.items():
            reached = dict(definitions(classes(wheels[package], files), root))
            schemas[kind] = {"$ref": f"#/definitions/{root}", "definitions": reached}
    target.write_text(json.dumps(schemas, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
