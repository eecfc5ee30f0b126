from __future__ import annotations

import json

import pytest

from examples.clients.compare import expected, faults

OUTPUT = """\
half_plus_two: 2.5000, 3.0000, 4.5000  from 127.0.0.1:33091
textcnn: price 0.9998, rent_flat 0.0001, thanks 0.0001  from 127.0.0.1:34553
mmoe: 0.8875, 1.0000  from 127.0.0.1:37783
digits: 7, probability 0.9996  from 127.0.0.1:39027
mmoe by TisPredict: 0.8875, 1.0000  from 127.0.0.1:37937
nobody: NOT_FOUND: task 12345 is not configured in this gateway
"""


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], list[float]]]:
    models = tmp_path_factory.mktemp("models")
    score = {"output": ["price", "rent_flat", "thanks"], "score": [0.99975, 0.00012, 0.0001]}
    for name, said in {
        "mmoe": {"features": [[0.0]], "outputs": [[0.88752, 0.99999]]},
        "textcnn": {"how much does it cost": score},
        "digits": {"7-0.png": [7, 0.99961]},
    }.items():
        (models / name).mkdir()
        (models / name / "expected.json").write_text(json.dumps(said))
    return expected(models)


def test_right_output(right: dict[str, tuple[list[str], list[float]]]) -> None:
    assert faults(OUTPUT, right) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("4.5000", "4.6000", "half_plus_two: "),
        (", 4.5000", "", "half_plus_two: "),
        ("price", "greeting", "textcnn: "),
        ("7, prob", "1, prob", "digits: "),
        ("mmoe by TisPredict: 0.8875, 1.0000  from 127.0.0.1:37937\n", "", "no answer to mmoe by TisPredict"),
        ("mmoe: 0.8875", "mmoe: nan", "mmoe: "),
        ("  from 127.0.0.1:39027", "  from ?", "no answer to digits"),
        ("nobody: NOT_FOUND", "nobody: UNAVAILABLE", "no line 'nobody"),
        ("nobody", "more: 1.0  from 127.0.0.1:1\nnobody", "which nobody asked"),
    ],
)
def test_wrong_output(
    right: dict[str, tuple[list[str], list[float]]], old: str, new: str, fault: str
) -> None:
    found = faults(OUTPUT.replace(old, new, 1), right)
    assert len(found) == 1 and fault in found[0]


def test_nothing_printed(right: dict[str, tuple[list[str], list[float]]]) -> None:
    assert len(faults("", right)) == len(right) + 1
