from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from services.torch_worker.execution.structure import mapped

Pair = namedtuple("Pair", ["a", "b"])


@dataclass
class Point:
    x: Any
    name: str = "p"


def test_tensors_change_and_everything_else_stays() -> None:
    ones = torch.ones(2)
    output: dict[str, Any] = {
        "list": [ones, 3, "text"],
        "pair": Pair(ones, None),
        "point": Point((ones, np.ones(1))),
        "ordered": OrderedDict(a=ones),
    }
    changed = mapped(output, lambda tensor: tensor + 1)
    assert changed["list"][0].tolist() == [2.0, 2.0] and changed["list"][1:] == [3, "text"]
    assert isinstance(changed["pair"], Pair) and changed["pair"].a.tolist() == [2.0, 2.0]
    assert changed["point"].x[0].tolist() == [2.0, 2.0] and changed["point"].x[1].tolist() == [2.0]
    assert changed["point"].name == "p" and isinstance(changed["ordered"], OrderedDict)
    assert output["list"][0] is ones, "the original is left alone"
    assert mapped("text", lambda tensor: None) == "text"
