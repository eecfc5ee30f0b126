"""Metrics of a model's versions: their states, and how loads went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from libs.serving.metrics import Histogram
from libs.serving.versions import VersionState

# Seconds: from a small pickle to tens of gigabytes that are warmed up and compiled.
_LOAD_BUCKETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class VersionStats:
    """Register it with `Metrics.registry`. Used on the event loop's thread.

    Series are only those of versions that are known now, so their number is bounded however many come and go.

    Attributes:
        swaps: times that requests began to go to another version, or to another content of it.
    """

    def __init__(self, model: str, states: Callable[[], Sequence[VersionState]]) -> None:
        self._model = model
        self._states = states
        self._seconds = Histogram(_LOAD_BUCKETS)
        self._failures = 0
        self._unloads = 0
        self.swaps = 0

    def loaded(self, seconds: float) -> None:
        """A load succeeded."""
        self._seconds.observe(seconds)

    def failed(self) -> None:
        """A load failed."""
        self._failures += 1

    def unloaded(self) -> None:
        """A copy of a version is gone."""
        self._unloads += 1

    def collect(self) -> Iterable[Metric]:
        """Families of the present moment; called by the registry."""
        states = GaugeMetricFamily(
            "serving_model_version",
            "1 for each version that is known, with its state and whether its last load failed.",
            labels=["model", "version", "state", "failed"],
        )
        for state in self._states():
            failed = "true" if state.error else "false"
            states.add_metric([self._model, str(state.number), state.state.name, failed], 1)
        yield states
        seconds = HistogramMetricFamily(
            "serving_model_load_seconds", "Time of a load that succeeded, with its warm-up.", labels=["model"]
        )
        self._seconds.add_to(seconds, [self._model])
        yield seconds
        for name, text, value in (
            ("serving_model_load_failures", "Loads that failed.", self._failures),
            ("serving_model_unloads", "Copies of versions that were unloaded.", self._unloads),
            ("serving_model_swaps", "Times that a version took over from another.", self.swaps),
        ):
            family = CounterMetricFamily(name, text, labels=["model"])
            family.add_metric([self._model], value)
            yield family
