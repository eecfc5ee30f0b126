from __future__ import annotations

from pathlib import Path

import pytest

from services.tf_serving.testing import MAKERS


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base path, of the one version 7, for each of testing.MAKERS."""
    base = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        make(base / name / "7")
    return base
