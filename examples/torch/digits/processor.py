"""Hooks of the digits model: a picture in, the digit and its probability out."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

SIDE = 8
# A picture of more pixels than this is refused before it is decoded: a small file can unpack to gigabytes.
MAX_PIXELS = 16_000_000

# Names of the two columns of every answer (data.names of the response).
class_names = ["class", "probability"]


def preprocess(x: bytes, **kwargs: Any) -> torch.Tensor:
    """Decode a picture of one digit (PNG or whatever Pillow reads) to a float32 tensor (1, 1, 8, 8).

    Larger pictures are scaled down, dark ink on a light background is inverted to the light ink the
    network knows. Raises ValueError, which the caller sees as INVALID_ARGUMENT, for anything else.
    """
    if not isinstance(x, bytes):
        raise ValueError(f"send the picture as binData, got {type(x).__name__}")
    try:
        with Image.open(io.BytesIO(x)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(
                    f"the picture has {picture.width} x {picture.height} pixels, at most "
                    f"{MAX_PIXELS} are accepted"
                )
            grey = picture.convert("L")
            if grey.size != (SIDE, SIDE):
                grey = grey.resize((SIDE, SIDE), Image.Resampling.BOX)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a picture that can be decoded: {error}") from error
    ink = np.asarray(grey, dtype=np.float32) / 255.0
    border = np.concatenate([ink[0], ink[-1], ink[1:-1, 0], ink[1:-1, -1]])
    if border.mean() > 0.5:
        ink = 1.0 - ink
    return torch.from_numpy(np.ascontiguousarray(ink)).reshape(1, 1, SIDE, SIDE)


def postprocess(x: torch.Tensor, **kwargs: Any) -> list[list[float]]:
    """Logits (1, 10) to [[class, probability]]."""
    probability, digit = torch.softmax(x, dim=1).max(dim=1)
    return [[float(d), float(p)] for d, p in zip(digit, probability, strict=True)]
