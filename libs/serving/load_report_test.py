from __future__ import annotations

import base64
import struct

import pytest

from libs.serving.load_report import LoadMeter, LoadReport, Totals

NOTHING = Totals(0.0, 0.0, 0, 0)


def test_the_bytes_are_an_orca_load_report() -> None:
    report = LoadReport(0.5, 0.75, 100.0, 0.0, 0.25)
    # fields by number: cpu_utilization 1, rps_fractional 6, application_utilization 9, utilization 5 {"queue": 0.25}
    expected = (
        b"\x09" + struct.pack("<d", 0.5)
        + b"\x31" + struct.pack("<d", 100.0)
        + b"\x49" + struct.pack("<d", 0.75)
        + b"\x2a\x10" + b"\x0a\x05queue" + b"\x11" + struct.pack("<d", 0.25)
    )  # fmt: skip
    assert report.serialized() == expected
    name, value = report.trailer()
    assert name == b"endpoint-load-metrics-bin"
    assert not value.endswith(b"=")
    assert base64.b64decode(value + b"=" * (-len(value) % 4)) == expected


def test_rates_are_those_of_the_last_second() -> None:
    meter = LoadMeter(cores=4, model_threads=2, totals=NOTHING, now=10.0)
    report = meter.report(Totals(2.0, 1.5, 100, 10), 0.0, 11.0)
    assert report == LoadReport(0.5, 0.75, 100.0, 10.0, 0.0)
    idle = report
    for step in range(1, 101):
        idle = meter.report(Totals(2.0, 1.5, 100, 10), 0.0, 11.0 + step / 10)
    assert idle.rps < 0.01 and idle.cpu_utilization < 0.001


def test_the_busier_of_model_and_cores_bounds_the_server() -> None:
    assert (
        LoadMeter(2, 1, NOTHING, 0.0).report(Totals(1.8, 0.1, 1, 0), 0.0, 1.0).application_utilization == 0.9
    )
    assert (
        LoadMeter(2, 1, NOTHING, 0.0).report(Totals(0.8, 0.7, 1, 0), 0.0, 1.0).application_utilization == 0.7
    )


def test_a_short_sample_moves_the_average_a_little() -> None:
    meter = LoadMeter(1, 1, NOTHING, 0.0)
    assert meter.report(Totals(0.1, 0.0, 0, 0), 0.0, 0.1).cpu_utilization == pytest.approx(0.1)


def test_a_clock_that_stands_still_changes_nothing() -> None:
    meter = LoadMeter(1, 1, NOTHING, 5.0)
    assert meter.report(Totals(1.0, 1.0, 9, 9), 0.5, 5.0) == LoadReport(0.0, 0.0, 0.0, 0.0, 0.5)
