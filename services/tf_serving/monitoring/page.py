"""Metrics as TensorFlow Serving writes them for Prometheus (tensorflow_serving/util/prometheus_exporter.cc).

Its names begin with a colon, for they were paths: /tensorflow/serving/request_count. prometheus-client refuses some of
that and renames counters, so the text is written here. Bounds of histograms are six digits long, as there, because
they are labels; sums are written in full, so that a rate can be taken of them.

A value equal to a bound counts below it, as Prometheus defines `le`. TensorFlow Serving counts it above.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from libs.serving.metrics import Histogram

CONTENT_TYPE = "text/plain"


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics of one name: numbers, or histograms, by the values of the labels."""

    name: str
    labels: tuple[str, ...]
    counters: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    histograms: Mapping[tuple[str, ...], Histogram] | None = None


def exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    """Bounds of a histogram: TensorFlow's Buckets::Exponential, without the last, which is infinity."""
    return tuple(scale * growth**power for power in range(count))


def write(families: Iterable[Family]) -> bytes:
    """The page, in the order of names."""
    lines: list[str] = []
    for family in sorted(families, key=lambda family: family.name):
        kind = "counter" if family.histograms is None else "histogram"
        lines.append(f"# TYPE {family.name} {kind}")
        for values, count in list(family.counters.items()):
            lines.append(f"{family.name}{{{_labels(family, values)}}} {count}")
        for values, histogram in list((family.histograms or {}).items()):
            lines += _histogram(family.name, _labels(family, values), histogram)
    return ("\n".join(lines) + "\n").encode()


def _histogram(name: str, labels: str, histogram: Histogram) -> Iterable[str]:
    before = f"{labels}," if labels else ""
    running = 0
    for bound, count in zip((*histogram.bounds, None), list(histogram.counts), strict=True):
        running += count
        limit = "+Inf" if bound is None else f"{bound:.6g}"
        yield f'{name}_bucket{{{before}le="{limit}"}} {running}'
    yield f"{name}_sum{{{labels}}} {histogram.total:.15g}"
    yield f"{name}_count{{{labels}}} {running}"


def _labels(family: Family, values: tuple[str, ...]) -> str:
    return ",".join(
        f'{label}="{_escaped(value)}"' for label, value in zip(family.labels, values, strict=True)
    )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
