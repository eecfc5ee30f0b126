"""Envoy's outlier detection, as far as calls are concerned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from libs.balancing.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """Envoy's names, in seconds and whole numbers. 0 turns a criterion off."""

    consecutive_failures: int = (
        3  # errors that the host answered: consecutive_5xx, consecutive_gateway_failure
    )
    consecutive_local_origin: int = 20  # no answer: refused, reset, timed out
    interval_s: float = 1.0
    base_ejection_s: float = 5.0
    max_ejection_s: float = 30.0
    max_ejection_percent: float = 50.0
    # success rate against the others: mean - factor x standard deviation
    stdev_factor: float = 0.0
    stdev_minimum_hosts: int = 5
    stdev_volume: int = 100
    # success rate by itself
    failure_percentage: float = 50.0
    percentage_minimum_hosts: int = 2
    percentage_volume: int = 20


class Outliers:
    """Which endpoints of one data plane are ejected."""

    def __init__(self, endpoints: Iterable[Endpoint], settings: OutlierSettings) -> None:
        self._settings = settings
        self._row = dict.fromkeys(endpoints, 0)
        self._local_row = dict.fromkeys(self._row, 0)
        self._until_s: dict[Endpoint, float] = {}
        self._times = dict.fromkeys(self._row, 0)
        self._window = {endpoint: [0, 0] for endpoint in self._row}
        self.ejections = 0

    def ejected(self) -> frozenset[Endpoint]:
        return frozenset(self._until_s)

    def began(self, endpoint: Endpoint) -> None:
        """A call found a connection, which is a success of local origin: it ends a row of timeouts."""
        self._local_row[endpoint] = 0

    def observe(self, endpoint: Endpoint, ok: bool, answered: bool, now_s: float) -> bool:
        """Counts a call. True when that ejects the endpoint.

        Success rates are those of answered calls: callers that give up early are no reason to eject anybody.
        """
        if answered:
            window = self._window[endpoint]
            window[0] += 1
            window[1] += ok
            row, most = self._row, self._settings.consecutive_failures
        else:
            row, most = self._local_row, self._settings.consecutive_local_origin
        row[endpoint] = 0 if ok else row[endpoint] + 1
        if most and row[endpoint] >= most:
            row[endpoint] = 0
            return self._eject(endpoint, now_s)
        return False

    def sweep(self, now_s: float) -> bool:
        """Once an interval: returns who has served its time, and compares success rates. True when that changes who is
        ejected.
        """
        before = self.ejected()
        for endpoint, until_s in list(self._until_s.items()):
            if now_s >= until_s:
                del self._until_s[endpoint]
        # Each quiet interval takes one off the multiple of the next ejection's time.
        for endpoint in self._times:
            if endpoint not in self._until_s and endpoint not in before:
                self._times[endpoint] = max(0, self._times[endpoint] - 1)
        for endpoint in self._low_success():
            self._eject(endpoint, now_s)
        for window in self._window.values():
            window[0] = window[1] = 0
        return self.ejected() != before

    def _low_success(self) -> list[Endpoint]:
        found: list[Endpoint] = []
        settings = self._settings
        rates = {
            endpoint: (ok / calls, calls)
            for endpoint, (calls, ok) in self._window.items()
            if calls and endpoint not in self._until_s
        }
        busy = {e: rate for e, (rate, calls) in rates.items() if calls >= settings.stdev_volume}
        if settings.stdev_factor and len(busy) >= settings.stdev_minimum_hosts:
            mean = sum(busy.values()) / len(busy)
            deviation = (sum((rate - mean) ** 2 for rate in busy.values()) / len(busy)) ** 0.5
            found += [e for e, rate in busy.items() if rate < mean - settings.stdev_factor * deviation]
        busy = {e: rate for e, (rate, calls) in rates.items() if calls >= settings.percentage_volume}
        if settings.failure_percentage and len(busy) >= settings.percentage_minimum_hosts:
            found += [e for e, rate in busy.items() if 100 * (1 - rate) >= settings.failure_percentage]
        return found

    def _eject(self, endpoint: Endpoint, now_s: float) -> bool:
        after = len(self._until_s) + 1
        if endpoint in self._until_s or 100 * after / len(self._row) > self._settings.max_ejection_percent:
            return False
        self._times[endpoint] += 1
        self._until_s[endpoint] = now_s + min(
            self._settings.max_ejection_s, self._settings.base_ejection_s * self._times[endpoint]
        )
        self.ejections += 1
        return True
