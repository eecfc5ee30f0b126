"""Which layers a change makes anew, and how large they are."""

from __future__ import annotations

import gzip
import io

import pytest

from deploy.images import layers

IMAGE = {"RootFS": {"Layers": ["sha256:base", "sha256:deps", "sha256:code"]}}
# The newest first; what changes no file is 0.
HISTORY = ["0", "0", "2000000", "130000000", "0", "175000000"]
BEFORE = [("sha256:base", 175_000_000), ("sha256:deps", 130_000_000), ("sha256:code", 2_000_000)]
AFTER = [*BEFORE[:2], ("sha256:newer", 2_000_100)]


def test_layers_have_the_sizes_of_the_steps_that_made_them() -> None:
    assert layers.layers_of(IMAGE, HISTORY) == BEFORE
    assert layers.parts(BEFORE) == (175.0, 130.0, 2.0)


def test_a_layer_without_a_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 layers, of which 2 have a size"):
        layers.layers_of(IMAGE, HISTORY[1:2] + HISTORY[3:])


def test_what_is_new_is_what_the_other_does_not_have() -> None:
    assert layers.new_layers(BEFORE, AFTER) == ["sha256:newer"]
    assert layers.new_layers(BEFORE, BEFORE) == []


def test_the_table_names_what_was_made_anew() -> None:
    line = layers.table({"gateway": BEFORE}, {"gateway": AFTER}, {"gateway": 590_000}).splitlines()[1]
    assert line.split()[:5] == ["gateway", "175", "130", "2.0", "307"]
    assert line.endswith("1 of 3 layers (our code), 0.59 MB")


def test_compression_is_gzips() -> None:
    data = b"one line of many\n" * 100_000
    size = layers.compressed_size(io.BytesIO(data))
    assert abs(size - len(gzip.compress(data, 6))) < 30
