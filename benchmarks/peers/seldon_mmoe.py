"""The mmoe model as seldon-core's microservice serves it: `seldon-core-microservice seldon_mmoe --service-type MODEL`,
in a folder that holds this file and the model's."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch


class seldon_mmoe:  # noqa: N801 (seldon-core looks for a class of the module's name)
    def __init__(self) -> None:
        if os.environ.get("SELDON_MMOE_THREADS") != "default":
            torch.set_num_threads(1)
        self.model = torch.load("model.pth", weights_only=False, map_location="cpu").eval()

    def predict(self, X: Any, features_names: list[str], **kwargs: object) -> Any:  # noqa: N803
        with torch.inference_mode():
            return np.stack([head.numpy() for head in self.model(torch.from_numpy(X).float())])
