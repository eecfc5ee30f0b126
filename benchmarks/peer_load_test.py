from __future__ import annotations

import pytest

from benchmarks.peer_calls import BentoHttp, RawHttp, SeldonGrpc, V2Grpc, V2Http
from benchmarks.peer_load import Measured, command, median, read
from benchmarks.peer_process import NotRunError

REPORT = """\
finished in 2.00s, 2281.00 req/s, 532.38KB/s
requests: 4562 total, 4578 started, 4562 done, 4562 succeeded, 0 failed, {errored} errored, 0 timeout
status codes: 4562 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.04MB (1090318) total, 846.46KB (866780) headers (space savings 0.00%), 35.64KB ({data}) data
"""


def test_reads_rate_and_count() -> None:
    assert read(REPORT.format(errored=0, data=4562 * 8), size=8) == (2281.0, 4562)


def test_takes_answers_that_came_late() -> None:
    assert read(REPORT.format(errored=0, data=(4562 + 64) * 1000), size=1000) == (2281.0, 4562)


@pytest.mark.parametrize("data", [0, 4562 * 7, 4562 * 9])
def test_refuses_answers_of_another_size(data: int) -> None:
    with pytest.raises(NotRunError, match="bytes an answer"):
        read(REPORT.format(errored=0, data=data), size=8)


def test_refuses_requests_without_an_answer() -> None:
    with pytest.raises(NotRunError, match="3 of 4562"):
        read(REPORT.format(errored=3, data=4562 * 8), size=8)
    with pytest.raises(NotRunError, match="no answers"):
        read("finished in 2.00s, 0.00 req/s\nrequests: 0 total, 1 started, 0 done, 0 succeeded", size=8)


def test_median_of_rounds_takes_each_column_by_itself() -> None:
    rounds = [Measured(100, 30), Measured(300, 10), Measured(200, 20)]
    assert median(rounds) == Measured(200, 20)


def test_http_gets_a_connection_for_each_call_and_grpc_shares_eight() -> None:
    http = command("h:1", RawHttp("/predict"), "body", 64, "taskset -c 1 h2load")
    assert http[:4] == ["taskset", "-c", "1", "h2load"]
    assert http[http.index("-c", 4) + 1] == "64" and http[http.index("-m") + 1] == "1" and "--h1" in http
    grpc = command("h:1", V2Grpc(), "body", 64, "h2load")
    assert grpc[grpc.index("-c") + 1] == "8" and grpc[grpc.index("-m") + 1] == "8" and "--h1" not in grpc


ROW = [0.5, -2.0, 3.25]


def test_bodies_carry_the_row() -> None:
    raw = b"\x00\x00\x00\x3f\x00\x00\x00\xc0\x00\x00\x50\x40"
    assert RawHttp("/p").body(ROW) == raw
    assert V2Grpc().body(ROW).endswith(raw)
    assert b"[0.5, -2.0, 3.25]" in V2Http().body(ROW)
    assert b"AAAAPwAAAMAAAFBA" in BentoHttp().body(ROW)


def test_a_seldon_answer_is_read_as_it_was_asked() -> None:
    assert SeldonGrpc().values(SeldonGrpc().body(ROW)) == ROW
