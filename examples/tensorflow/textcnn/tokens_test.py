from __future__ import annotations

import pytest

from examples.tensorflow.textcnn.tokens import EOS, PAD, SEQUENCE_LENGTH, SPACE, cells, tokens


def test_a_sentence_is_its_characters_then_the_end_then_padding() -> None:
    assert tokens("不用了谢谢") == [*"不用了谢谢", EOS, *[PAD] * 66]


def test_english_is_lower_cased_and_white_space_is_one_mark() -> None:
    assert tokens(" Hi \t THERE\n", 12) == ["h", "i", SPACE, *"there", EOS, PAD, PAD, PAD]


def test_full_width_forms_become_ordinary_ones() -> None:
    assert tokens("ＡＢ１？", 5) == [*"ab1?", EOS]


@pytest.mark.parametrize("length", [0, 1, 71, 72, 73, 500])
def test_there_are_always_exactly_72_cells(length: int) -> None:
    sentence = tokens("好" * length)
    assert len(sentence) == SEQUENCE_LENGTH
    assert sentence.count("好") == min(length, SEQUENCE_LENGTH)
    assert sentence.count(EOS) == (length < SEQUENCE_LENGTH)


def test_an_empty_sentence_is_an_end_and_padding() -> None:
    assert tokens("  ", 3) == [EOS, PAD, PAD]


def test_a_length_must_be_positive() -> None:
    with pytest.raises(ValueError, match="got 0"):
        tokens("x", 0)


def test_cells_are_row_major_utf8() -> None:
    assert cells(["好", "a b"], 4) == [
        *("好".encode(), b"<eos>", b"<pad>", b"<pad>"),
        *(b"a", b"<space>", b"b", b"<eos>"),
    ]
