from __future__ import annotations

from pathlib import Path

import pytest

from services.torch_worker.config import ConfigError
from services.torch_worker.model.model_config import (
    ModelConfig,
    PaddingConfig,
    TensorSpec,
    WarmupConfig,
    parse_model_config,
)

FILE = Path("/m/config.toml")


def test_reads_every_field() -> None:
    text = """
# about the model
[model]
file = "model.pt2"
class = "my_net.MyNet"
batchable = true
max_batch_size = 8
max_delay_ms = 2
preferred_batch_sizes = [8, 4, 8]
instances = 2
threads = 3
autocast = "bfloat16"
compile = "default"
cuda_graphs = false

[parameters]
width = 5
names = ["a"]

[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 138]

[[inputs]]
name = "ids"
dtype = "INT64"
shape = []

[[outputs]]
name = "label"
dtype = "str"
shape = [-1]

[warmup]
files = "warmup.npy"
rows = [8, 1]

[padding]
multiple_of = 8
value = -1
mask = "attention_mask"
"""
    assert parse_model_config(text, FILE) == ModelConfig(
        file="model.pt2",
        class_name="my_net.MyNet",
        batchable=True,
        max_batch_size=8,
        max_delay_ms=2.0,
        preferred_batch_sizes=(4, 8),
        instances=2,
        threads=3,
        autocast="bfloat16",
        compile="default",
        cuda_graphs=False,
        parameters={"width": 5, "names": ["a"]},
        inputs=(TensorSpec("x", "FP32", (-1, 138)), TensorSpec("ids", "INT64", ())),
        outputs=(TensorSpec("label", "BYTES", (-1,)),),
        warmup=WarmupConfig(("warmup.npy",), (1, 8)),
        padding=PaddingConfig(8, -1.0, "attention_mask"),
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "[model]\n"])
def test_everything_is_optional(text: str) -> None:
    assert parse_model_config(text, FILE) == ModelConfig()


def test_a_table_without_fields_asks_for_its_defaults() -> None:
    config = parse_model_config("[warmup]\n[padding]\n", FILE)
    assert (config.warmup, config.padding) == (WarmupConfig(), PaddingConfig())
    assert parse_model_config('[warmup]\nfiles = ["a.npy", "b/c.npz"]\n', FILE).warmup == WarmupConfig(
        ("a.npy", "b/c.npz")
    )


TENSORS = '[[inputs]]\nname = "a"\ndtype = "int8"\nshape = [1]\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[model]\nbatchable = 1\n", "/m/config.toml:2: model.batchable: expected true or false, got 1"),
        (
            '[model]\n\n# x\nmax_batch_size = "8"\n',
            "/m/config.toml:4: model.max_batch_size: expected a whole",
        ),
        ("[model]\nmax_batch_size = 0\n", "/m/config.toml:2: model.max_batch_size: expected a whole number"),
        ("[model]\nmax_batch_size = true\n", "/m/config.toml:2: model.max_batch_size: expected a whole"),
        ("[model]\nmax_delay_ms = -1\n", "/m/config.toml:2: model.max_delay_ms: expected milliseconds"),
        ("model.max_delay_ms = 1e9\n", "/m/config.toml:1: model.max_delay_ms: expected milliseconds"),
        ("\nmodel = {threads = -1}\n", "/m/config.toml:2: model.threads: expected a whole number from 0"),
        ("[model]\nbatchabel = true\n", "/m/config.toml:2: model.batchabel: unknown field; known are file"),
        ("[model]\nthreads = true\n", "/m/config.toml:2: model.threads: expected a whole number from 0 to"),
        ("[model]\nautocast = 16\n", "/m/config.toml:2: model.autocast: expected one of bfloat16, float16"),
        ('[model]\nclass = "my-model"\n', "/m/config.toml:2: model.class: expected the name of a class"),
        ('[model]\nfile = "../m.pt"\n', "/m/config.toml:2: model.file: expected the name of a file in the"),
        ('[model]\nfile = "/m.pt"\n', "/m/config.toml:2: model.file: expected the name of a file in the"),
        ("\n[modle]\n", "/m/config.toml:2: modle: unknown; there are the tables [model], [parameters]"),
        ("x = 1\n", "/m/config.toml:1: x: unknown"),
        ("model = 3\n", "/m/config.toml:1: model: expected a table"),
        ("parameters = 3\n", "/m/config.toml:1: parameters: expected a table"),
        ("max_delay_ms = 3\n", "/m/config.toml:1: max_delay_ms: unknown; it stands under [model]"),
        ("[model\n", "/m/config.toml:1: not valid TOML: Expected ']'"),
        ("[model]\n\nfile = \n", "/m/config.toml:3: not valid TOML: "),
        ("[model]\nfile = [1,\n", "/m/config.toml:2: not valid TOML: "),
        ("[inputs]\n", "/m/config.toml:1: inputs: expected tables, each under a header [[inputs]]"),
        (
            '[[inputs]]\nname = "x"\n',
            "/m/config.toml:1: inputs[0]: dtype is missing; it has name, dtype, shape",
        ),
        (
            TENSORS + '[[inputs]]\nname = "b"\ndtype = "float"\nshape = [1]\n',
            "/m/config.toml:7: inputs[1].dtype: expected one of bool, uint8",
        ),
        (TENSORS + "\n" + TENSORS, "/m/config.toml:7: inputs[1].name: 'a' is there twice"),
        (TENSORS + "size = 1\n", "/m/config.toml:5: inputs[0].size: unknown field; known are name"),
        (TENSORS.replace("[1]", "[-2]"), "/m/config.toml:4: inputs[0].shape: expected a list of dimensions"),
        ("[warmup]\nrows = 1\n", "/m/config.toml:2: warmup.rows: expected a list of rows"),
        ("[warmup]\nfiles = []\n", "/m/config.toml:2: warmup.files: expected the name of a file"),
        ("[padding]\nmultiple_of = 0\n", "/m/config.toml:2: padding.multiple_of: expected a whole number"),
        ('[padding]\nvalue = "0"\n', "/m/config.toml:2: padding.value: expected a number, got '0'"),
        ("[padding]\nmask = true\n", "/m/config.toml:2: padding.mask: expected the name of a parameter"),
        ("[model]\n[padding]\n[x]\n", "/m/config.toml:3: x: unknown"),
    ],
)
def test_errors_name_file_line_and_field(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_model_config(text, FILE)
    assert str(caught.value).startswith(expected)
