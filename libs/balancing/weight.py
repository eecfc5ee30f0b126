"""Dynamic weights: an instance that fails loses its share fast and earns it back fast.

The rule is the one that wuba/dl_inference publishes for its balancer, per call:

    success:  effective += (weight - effective + 1) >> 1, up to weight
    failure:  effective >>= 1, never below 1

So with weight 100 seven failures in a row leave 1 % of the share, and seven successes give all of it back.
"""

from __future__ import annotations

# Fine enough that a halving shows, small enough that the sum over 1,000 instances fits 32 bits.
DEFAULT_WEIGHT = 100


class DynamicWeight:
    """The effective weight of one instance."""

    __slots__ = ("effective", "weight")

    def __init__(self, weight: int = DEFAULT_WEIGHT) -> None:
        if weight < 1:
            raise ValueError(f"weight is {weight}, expected at least 1")
        self.weight = weight
        self.effective = weight

    def succeeded(self) -> None:
        if self.effective < self.weight:
            self.effective += (self.weight - self.effective + 1) >> 1

    def failed(self) -> None:
        self.effective = max(1, self.effective >> 1)

    def observe(self, successes: int, failures: int) -> None:
        """Applies the outcomes of one reporting window, in which the order of the calls is not known.

        Failures are spread evenly among the successes. Each step halves the distance to one of the two ends,
        so after 2 * log2(weight) calls nothing is left of what came before: only the last calls of a large
        window are replayed, at the window's failure ratio.
        """
        if successes < 0 or failures < 0:
            raise ValueError(f"counts are {successes} and {failures}, expected none below 0")
        total = successes + failures
        replayed = min(total, max(8, 4 * self.weight.bit_length()))
        # An even spread: call i fails when the running count of failures, i * failures / total, steps up.
        # The half call of offset keeps a lone failure off the window's edge.
        done = (total - replayed) * failures + total // 2
        for _ in range(replayed):
            before = done // total
            done += failures
            if done // total > before:
                self.failed()
            else:
                self.succeeded()
