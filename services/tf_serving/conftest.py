from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from services.tf_serving.testing import MAKERS
from services.tf_serving.testing_recipes import RECIPES


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base path, of the one version 7, for each of testing.MAKERS."""
    base = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        make(base / name / "7")
    return base


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a name in testing_recipes.RECIPES to its version folder, .../7, made when it is first asked for."""
    base = tmp_path_factory.mktemp("recipes")

    @functools.cache
    def make(name: str) -> Path:
        RECIPES[name](base / name / "7")
        return base / name / "7"

    return make
