"""What is known about whether requests can share model calls, and when to look again.

A model that answers each row by itself gives the same answers to requests together as one by one. The first shared call
proves it or not (`verified`). A proof by a few requests has holes: a model may mix rows of other shapes, of larger
batches, or now and then. So one request of a shared call is run by itself too, and compared, at the first call of each
form of input, and at calls number 8, 16, 32 ...: often where little is known, and in the long run for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

log = logging.getLogger(__name__)

# Forms whose first shared call is checked. A model that takes more is checked by the number of its calls alone.
_MAX_FORMS = 64
# Shared calls before the first check by number.
_FIRST = 8


class Sharing:
    """Shared by all instances of a model; its fields are written under Python's lock alone, since a lost count or a
    check made twice does no harm.

    Args:
        shares: whether requests may share calls, until something else is learnt.
        verified: whether that needs no proof: the folder says so.
        pads: whether sequences may be filled up to one length for it.

    Attributes:
        shares, verified, pads: as known now.
        following: which tensors of an output have the sequence's length; None until padded calls are verified.
    """

    def __init__(self, shares: bool, verified: bool, pads: bool) -> None:
        self.shares = shares
        self.verified = verified
        self.pads = pads and shares
        self.following: tuple[bool, ...] | None = None
        self._trusted = verified
        self._forms: set[Hashable] = set()
        self._calls = {False: 0, True: 0}

    def unproven(self, padded: bool) -> bool:
        """Whether a shared call must prove itself first."""
        return not self.verified or (padded and self.following is None)

    def due(self, form: Hashable, padded: bool) -> bool:
        """Whether a request of this shared call shall be run by itself too. Counts the call.

        Args:
            form: of the call's input.
            padded: whether sequences are filled up in it. Padding is never taken on trust.
        """
        if self._trusted and not padded:
            return False
        self._calls[padded] = calls = self._calls[padded] + 1
        if form not in self._forms and len(self._forms) < _MAX_FORMS:
            self._forms.add(form)
            return True
        return calls >= _FIRST and calls & (calls - 1) == 0

    def prove(self, requests: int, form: Hashable, following: tuple[bool, ...] | None) -> None:
        """A first call of so many requests gave the single requests' answers."""
        self._forms.add(form)
        if not self.verified:
            log.info(
                "requests share model calls: a first batch of %d gave the single requests' answers", requests
            )
        elif following is not None:
            log.info(
                "padded requests share model calls: a first batch of %d gave their own answers", requests
            )
        self.verified = True
        if following is not None:
            self.following = following

    def stop(self, reason: str, padded: bool) -> None:
        """Shared calls (of padded sequences only, if it was one of them) give wrong answers: no more of them."""
        if padded and self.pads:
            self.pads = False
            log.warning(
                "requests will not be padded to share model calls ([padding] in config.toml): %s", reason
            )
        elif not padded and self.shares:
            self.shares = False
            log.warning(
                "requests will not share model calls: %s (batchable in config.toml overrides this)", reason
            )
