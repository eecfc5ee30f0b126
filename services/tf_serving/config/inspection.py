"""Which models lie below a folder, and what their files tell: no graph is loaded, none is run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import saved_model
from services.tf_serving.model.saved_model import MetaGraph
from services.tf_serving.model.signature import Signature, TensorSpec, dtype_name, shape_text
from services.tf_serving.model.versions import GRAPH_FILES, ModelError, check_saved_model, scan

MAX_DEPTH = 6
"""Folders below the one that is searched."""

_PARTS = (*GRAPH_FILES, "variables", "assets", "assets.extra", "keras_metadata.pb", "fingerprint.pb")
"""What only a SavedModel's folder holds: without a graph beside it, it is a SavedModel that is not whole."""

_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")


@dataclass(frozen=True, slots=True)
class InspectedVersion:
    """One version's folder. `problem` says why it cannot be served, "" if nothing was found; then it has signatures.

    Attributes:
        signatures: those that can be called, by name.
    """

    number: int
    path: Path
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class InspectedModel:
    """A base path with its versions, ascending. `key` is its path below the folder that was searched."""

    key: str
    base_path: Path
    versions: tuple[InspectedVersion, ...]

    @property
    def folder(self) -> str:
        """The base path's own name."""
        return self.base_path.name


@dataclass(frozen=True, slots=True)
class Stray:
    """A SavedModel that lies where no server looks for one."""

    path: Path
    problem: str


def find(folder: Path) -> tuple[list[InspectedModel], list[Stray]]:
    """The models below `folder`, which may be one's base path itself, in order of their paths.

    Raises:
        ModelError: `folder` cannot be listed.
    """
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is no folder: expected one with a folder for each model, such as textcnn/1/"
        )
    models, strays = list[InspectedModel](), list[Stray]()
    for found in _walk(folder, folder, MAX_DEPTH):
        if isinstance(found, Stray):
            strays.append(found)
        else:
            models.append(found)
    return models, strays


def inspect(number: int, path: Path) -> InspectedVersion:
    """What a version's files tell."""
    try:
        check_saved_model(path)
        graph = saved_model.read(path) or _read_text(path)
        _check_files(path, graph)
    except ModelError as error:
        return InspectedVersion(number, path, problem=str(error))
    # TensorFlow 2 keeps its initialiser among the signatures; it has no input and nobody calls it.
    called = {
        name: signature
        for name, signature in sorted(graph.signatures.items())
        if signature.outputs and not name.startswith("__saved_model_")
    }
    if not called:
        problem = f"{path} has no signature that can be called: save it with signatures=..."
        return InspectedVersion(number, path, problem=problem)
    return InspectedVersion(number, path, called)


def describe(signature: Signature) -> str:
    """`x float [?,1] -> y float [?,1]`."""
    return f"{_specs(signature.inputs)} -> {_specs(signature.outputs)}"


def _specs(specs: Mapping[str, TensorSpec]) -> str:
    told = [f"{name} {dtype_name(spec.data_type)} {shape_text(spec.shape)}" for name, spec in specs.items()]
    return ", ".join(told) or "nothing"


def _walk(folder: Path, root: Path, depth: int) -> Iterator[InspectedModel | Stray]:
    try:
        children = sorted(
            child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
        )
    except OSError as error:
        raise ModelError(f"cannot list {folder}: {error.strerror}") from error
    numbered = scan(folder)
    if any((version.path / part).exists() for version in numbered for part in _PARTS):
        if not _is_text(folder.name):  # a configuration could not name it
            yield Stray(folder, "the name of a model's folder must be UTF-8")
            return
        key = folder.relative_to(root).as_posix() if folder != root else folder.absolute().name
        versions = tuple(inspect(version.number, version.path) for version in numbered)
        yield InspectedModel(key, folder.absolute(), versions)
    elif any((folder / name).exists() for name in GRAPH_FILES):
        yield Stray(folder, f"a SavedModel in no version's folder: move it into {folder}/1")
    elif depth:
        for child in children:
            if not (child.is_symlink() and folder.resolve().is_relative_to(child.resolve())):  # a loop
                yield from _walk(child, root, depth - 1)


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8; a byte that is not comes as a surrogate."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_text(path: Path) -> MetaGraph:
    """The serving graph of a saved_model.pbtxt."""
    tensorflow()
    from google.protobuf import text_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    file = path / "saved_model.pbtxt"
    try:
        message = text_format.Parse(file.read_text(encoding="utf-8"), SavedModel())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ModelError(f"{file} is corrupt, or not a SavedModel: {error}") from error
    for graph in message.meta_graphs:
        if set(graph.meta_info_def.tags) == {saved_model.SERVE_TAG}:
            return saved_model.parse_meta_graph(graph.SerializeToString())
    raise ModelError(f"{file} has no graph tagged {{{saved_model.SERVE_TAG}}}")


def _check_files(path: Path, graph: MetaGraph) -> None:
    """The files that the graph reads when it is loaded are there. Raises ModelError."""
    for name in graph.assets:
        if not (path / "assets" / name).is_file():
            raise ModelError(f"{path} is not whole: its graph reads assets/{name}, which is not there")
    variables = path / "variables"
    names = sorted(entry.name for entry in variables.iterdir()) if variables.is_dir() else []
    shards = [found for name in names if (found := _SHARD.fullmatch(name))]
    if shards and "variables.index" not in names:
        raise ModelError(f"{path} is not whole: variables/variables.index is not there")
    if "variables.index" in names:
        count = int(shards[0].group(2)) if shards else 1
        present = {int(shard.group(1)) for shard in shards}
        missing = [number for number in range(count) if number not in present]
        if missing:
            name = f"variables.data-{missing[0]:05d}-of-{count:05d}"
            raise ModelError(f"{path} is not whole: variables/{name} is not there")
