"""Text to the 72 string cells that the textcnn model reads. Needs no TensorFlow: callers import it too.

One cell holds one character. The layout is the one that existing callers of the model build by hand: the
characters of the sentence, ``<eos>`` right behind them when there is room, ``<pad>`` up to the end. A
sentence of 72 characters or more fills every cell and has no ``<eos>``.
"""

from __future__ import annotations

import unicodedata

SEQUENCE_LENGTH = 72
"""Cells of one sentence: the second dimension of the model's ``sentence`` input."""

PAD = "<pad>"
EOS = "<eos>"
SPACE = "<space>"

UNKNOWN_LABEL = "__label__unknown"
"""What callers send as ``label``: part of the signature's contract, without effect on the answer."""


def tokens(text: str, length: int = SEQUENCE_LENGTH) -> list[str]:
    """Split text into exactly `length` cells.

    Full-width letters and digits become their ordinary forms (NFKC), letters become lower case, every run of
    white space becomes one ``<space>``.

    Raises:
        ValueError: `length` is not positive.
    """
    if length <= 0:
        raise ValueError(f"length must be positive, got {length}")
    normal = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    cells = [SPACE if character == " " else character for character in normal[:length]]
    if len(cells) < length:
        cells.append(EOS)
    return cells + [PAD] * (length - len(cells))


def cells(texts: list[str], length: int = SEQUENCE_LENGTH) -> list[bytes]:
    """UTF-8 cells of several sentences, row-major: the ``string_val`` of a (len(texts), length) tensor."""
    return [cell.encode() for text in texts for cell in tokens(text, length)]
