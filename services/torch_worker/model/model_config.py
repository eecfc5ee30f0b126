"""What the owner of a model folder says about the model: config.toml, parsed and checked once.

A flag on the command line wins over config.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.torch_worker.model import config_values as value
from services.torch_worker.model.toml_text import Parser, TomlText


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A declared input or output, [[inputs]] or [[outputs]]: what KServe's metadata says of it.

    Attributes:
        name: in KServe's protocol.
        datatype: KServe's name of the element type, such as "FP32" (config.toml may also say "float32").
        shape: with the dimension of the rows; -1 for any size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WarmupConfig:
    """Table [warmup]: what runs through the model before it is ready.

    Attributes:
        files: recorded inputs in the folder.
        rows: batch sizes that are run.
    """

    files: tuple[str, ...] = ()
    rows: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class PaddingConfig:
    """Table [padding]: inputs that differ in length alone may share a call once they are filled up to one length.

    Attributes:
        multiple_of: lengths are rounded up to a multiple of it; requests that come out equal may share a call.
        value: what is filled in.
        mask: parameter of the model's forward that gets the mask of what is real; None: it gets none.
    """

    multiple_of: int = 16
    value: float = 0.0
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """config.toml: the fields of its table [model], then its other tables. None: not said.

    Attributes:
        file: the model file, where the folder holds several.
        class_name: of the Seldon-style class that is the model: "MyModel" in MyModel.py, or "my_module.MyModel".
        batchable: True: requests may share a model call, also through a custom run_model; False: never; None
            (not said): they share it unless there is a custom run_model or the first shared call gives other
            answers.
        max_batch_size: most rows in one model call.
        max_delay_ms: longest time that an incomplete batch is held for callers about to return; 0: never; None (not
            said): as long as the model's measured time allows.
        preferred_batch_sizes: rows that a batch is cut to, or filled up to, where possible; ascending.
        instances: model calls that may run at a time, each on a copy of the model.
        threads: CPU threads of one model call; 0, and None (not said): chosen by what calls take.
        autocast: "bfloat16" or "float16": floating operators run in that type where torch deems it safe.
        compile: mode of torch.compile ("default", "reduce-overhead", "max-autotune").
        cuda_graphs: whether to record the model call of each preferred batch size as a CUDA graph.
        parameters: table [parameters]: keyword arguments of build_model or of the class.
        inputs, outputs: declared tensors, in order; empty where none are declared.
        warmup: table [warmup].
        padding: table [padding].
    """

    file: str | None = None
    class_name: str | None = None
    batchable: bool | None = None
    max_batch_size: int | None = None
    max_delay_ms: float | None = None
    preferred_batch_sizes: tuple[int, ...] | None = None
    instances: int | None = None
    threads: int | None = None
    autocast: str | None = None
    compile: str | None = None
    cuda_graphs: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    warmup: WarmupConfig | None = None
    padding: PaddingConfig | None = None


AUTOCAST_TYPES = ("bfloat16", "float16")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")

_COUNT = value.number(1, 1024)

_MODEL: Mapping[str, Parser] = {
    "file": value.file,
    "class": value.class_path,
    "batchable": value.flag,
    "max_batch_size": value.rows,
    "max_delay_ms": value.milliseconds,
    "preferred_batch_sizes": value.sizes,
    "instances": _COUNT,
    "threads": value.number(0, 1024),
    "autocast": value.one_of(*AUTOCAST_TYPES),
    "compile": value.one_of(*COMPILE_MODES),
    "cuda_graphs": value.flag,
}
_TENSOR: Mapping[str, Parser] = {"name": value.text, "dtype": value.datatype, "shape": value.shape}
_WARMUP: Mapping[str, Parser] = {"files": value.files, "rows": value.sizes}
_PADDING: Mapping[str, Parser] = {
    "multiple_of": value.number(1, 1_000_000),
    "value": value.real,
    "mask": value.identifier,
}
_FIELDS = {"[model]": _MODEL, "[warmup]": _WARMUP, "[padding]": _PADDING}
_TABLES = ("[model]", "[parameters]", "[[inputs]]", "[[outputs]]", "[warmup]", "[padding]")


def parse_model_config(text: str, source: Path) -> ModelConfig:
    """Read the text of a config.toml.

    Raises:
        ConfigError: with the file, the line and the field, and what was expected there.
    """
    document = TomlText.parse(text, source)
    for name in document.values:
        if name not in [table.strip("[]") for table in _TABLES]:
            owner = next((table for table, known in _FIELDS.items() if name in known), None)
            hint = f"it stands under {owner}" if owner else f"there are the tables {', '.join(_TABLES)}"
            raise document.error(name, None, f"unknown; {hint}")
    model = document.fields("model", _MODEL)
    class_name = model.pop("class", None)
    parameters = document.values.get("parameters", {})
    if not isinstance(parameters, dict):
        raise document.error("parameters", None, "expected a table, [parameters]")
    warmup = document.fields("warmup", _WARMUP)
    padding = document.fields("padding", _PADDING)
    return ModelConfig(
        **model,
        class_name=class_name,
        parameters=parameters,
        inputs=_tensors(document, "inputs"),
        outputs=_tensors(document, "outputs"),
        warmup=WarmupConfig(**warmup) if "warmup" in document.values else None,
        padding=PaddingConfig(**padding) if "padding" in document.values else None,
    )


def _tensors(document: TomlText, table: str) -> tuple[TensorSpec, ...]:
    found: list[TensorSpec] = []
    for index, fields in enumerate(document.each(table, _TENSOR)):
        if fields["name"] in [spec.name for spec in found]:
            raise document.error(table, "name", f"{fields['name']!r} is there twice", index)
        found.append(TensorSpec(fields["name"], fields["dtype"], fields["shape"]))
    return tuple(found)
