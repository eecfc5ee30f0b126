from __future__ import annotations

import random
from collections import Counter

import pytest

from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import NoEndpointError
from libs.balancing.two_choices import TwoChoices
from libs.balancing.weight import DynamicWeights

A, B, C = (Endpoint(f"10.0.0.{i}", 8500) for i in (1, 2, 3))


def test_the_first_is_drawn_by_weight_and_the_second_by_weight_from_the_rest() -> None:
    choices = TwoChoices(DynamicWeights({A: 6, B: 3, C: 1}), random.Random(11))
    draws = Counter(choices.draw() for _ in range(20_000))
    expected = {
        (A, B): 0.6 * 0.75, (A, C): 0.6 * 0.25, (B, A): 0.3 * 6 / 7, (B, C): 0.3 / 7,
        (C, A): 0.1 * 2 / 3, (C, B): 0.1 / 3,
    }  # fmt: skip
    assert draws.keys() == expected.keys()
    for pair, share in expected.items():
        # Four standard deviations of a binomial with n = 20,000.
        assert abs(draws[pair] / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_weights_that_change_are_seen() -> None:
    weights = DynamicWeights({A: 100, B: 100})
    choices = TwoChoices(weights, random.Random(4))
    choices.draw()
    for _ in range(7):
        weights.observe(A, ok=False)
    firsts = Counter(choices.draw()[0] for _ in range(1000))
    assert firsts[A] < 30


def test_one_endpoint_is_both_and_none_is_an_error() -> None:
    assert TwoChoices(DynamicWeights({A: 5}), random.Random(0)).draw() == (A, A)
    with pytest.raises(NoEndpointError):
        TwoChoices(DynamicWeights({}), random.Random(0)).draw()
