from __future__ import annotations

from pathlib import Path

import pytest

from services.tf_serving.execution import libraries
from services.tf_serving.model.versions import ModelError


def test_a_library_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    libraries.load([])
    with pytest.raises(ModelError) as caught:
        libraries.load([str(tmp_path / "no.so")])
    assert str(caught.value) == (
        f"cannot load the library of operators {tmp_path}/no.so: there is no such file"
    )
    with pytest.raises(ModelError, match=f"operators {tmp_path}: it is no file"):
        libraries.check([str(tmp_path)])


def test_a_file_that_is_no_library_is_told_by_its_path(tmp_path: Path) -> None:
    bad = tmp_path / "bad.so"
    bad.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=f"cannot load the library of operators {bad}: .*file too short"):
        libraries.load([str(bad)])
