from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from libs.proto.messages import SeldonMessage
from services.torch_worker.config import ConfigError
from services.torch_worker.execution.arguments import NamedInputs
from services.torch_worker.execution.recorded import read_recorded


def test_arrays(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.int64).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    recorded = read_recorded(tmp_path / "x.npy")
    assert recorded.name == "x.npy" and recorded.tags == {} and recorded.bytes >= x.nbytes
    np.testing.assert_array_equal(recorded.payload, x)
    np.savez(tmp_path / "x.npz", ids=x, mask=x > 2)
    named = read_recorded(tmp_path / "x.npz").payload
    assert isinstance(named, NamedInputs) and set(named) == {"ids", "mask"}
    np.testing.assert_array_equal(named["mask"], x > 2)


def test_messages(tmp_path: Path) -> None:
    message = SeldonMessage()
    message.meta.tags["taskId"].number_value = 7
    message.data.tensor.shape.extend([1, 2])
    message.data.tensor.values.extend([0.5, 1.5])
    (tmp_path / "x.pb").write_bytes(message.SerializeToString())
    (tmp_path / "x.json").write_text(
        '{"meta": {"tags": {"taskId": 7}}, "data": {"tensor": {"shape": [1, 2], "values": [0.5, 1.5]}}}'
    )
    for name in ("x.pb", "x.json"):
        recorded = read_recorded(tmp_path / name)
        assert recorded.tags == {"taskId": 7} and recorded.payload.tolist() == [[0.5, 1.5]]
    (tmp_path / "y.json").write_text('{"strData": "hello"}')
    assert read_recorded(tmp_path / "y.json").payload == "hello"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.npy", b"junk", "cannot be read"),
        ("x.npz", b"junk", "cannot be read"),
        ("x.npy", b"", "cannot be read"),
        ("x.pb", b"\xff\xff", "cannot be read"),
        ("x.pb", b"", "no payload"),
        ("x.json", b"{", "cannot be read"),
        ("x.json", b'{"daat": 1}', "cannot be read"),
        ("x.txt", b"1", "expected one of .npy"),
        ("absent.npy", None, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        read_recorded(tmp_path / name)


def test_pickled_arrays_are_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recorded(tmp_path / "x.npy")
