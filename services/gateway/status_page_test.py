from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

from services.gateway.status_page import SHOWN, Choice, found, main, page, shown
from services.gateway.status_parts import spark
from services.gateway.status_words import ms, number, percent, span
from services.gateway.table import Pool, Table, Task
from services.gateway.testing_status import EXPIRING, FAILED, OVERVIEW, A, document, task_counts, view

EVIL = "<script>alert('x')</script>\"'&"


class Tags(HTMLParser):
    """Collects what a browser would see as elements and as attributes that run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.running: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.running += [name for name, _ in attrs if name.startswith("on")]


def test_nothing_that_a_file_or_a_caller_says_becomes_markup() -> None:
    call = replace(
        FAILED, task=EVIL, message=EVIL, details=EVIL, instance=EVIL, caller=EVIL, pool=EVIL, reason=EVIL
    )
    overview = replace(
        OVERVIEW,
        listen=EVIL,
        state=EVIL,
        sources=(EVIL,),
        errors=(EVIL,),
        unresolved={EVIL: EVIL},
        certificates=(replace(EXPIRING, file=EVIL),),
    )
    table = Table({69: Task(69, 100, EVIL)}, {EVIL: Pool(EVIL, {A: 100}, fallback="")})
    given = view(overview=overview, failures=[call], table=table, groups={EVIL: [{A: 100}, {A: 1}]}, hosts={})
    tags = Tags()
    tags.feed(page(document(given), Choice(EVIL)))
    assert tags.tags.count("script") == 1  # its own
    assert tags.running == []


def test_only_the_pages_own_script_may_run() -> None:
    text = page(document(view()), Choice())
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_tasks_in_trouble_come_first_and_then_the_busiest() -> None:
    given = document(view({"69": task_counts(10), "70": task_counts(99)}))
    assert found(given, Choice()) == ["70", "69"]
    given["tasks"]["69"]["trouble"] = "degraded"
    assert found(given, Choice()) == ["69", "70"]


def test_the_filter_looks_at_ids_pools_and_instances() -> None:
    given = document(view())
    assert found(given, Choice("70")) == ["70"]
    assert found(given, Choice("next")) == ["69"]
    assert found(given, Choice("10.0.0.3")) == ["69", "70"]
    assert found(given, Choice("nothing like it")) == []
    assert "No task matches" in main(given, Choice("nothing like it"))


def test_a_large_table_is_cut_until_all_is_asked_for() -> None:
    pools = {f"task-{n}": Pool(f"task-{n}", {A: 100}) for n in range(1, 201)}
    table = Table({n: Task(n, 100, f"task-{n}") for n in range(1, 201)}, pools)
    given = document(view(table=table, groups={name: [pool.members] for name, pool in pools.items()}))
    assert len(shown(given, Choice())) == SHOWN
    assert f"{SHOWN} of 200" in main(given, Choice())
    assert len(shown(given, Choice.of({"all": "1"}))) == 200
    assert "Show all" not in main(given, Choice.of({"all": "1"}))


def test_plots_stay_inside_their_box() -> None:
    points = [{"rate": n % 7, "error_rate": n % 3, "p99_s": None} for n in range(60)]
    drawn = spark(points, ("rate", "error_rate"), width=100, height=20)
    numbers = [
        (float(x), float(y))
        for x, y in re.findall(r"([\d.]+),([\d.]+)", " ".join(re.findall('points="([^"]*)"', drawn)))
    ]
    assert numbers
    assert all(0 <= x <= 100.1 and 0 <= y <= 20 for x, y in numbers)
    assert "polyline" not in spark([], ("rate",))
    assert "polyline" not in spark(points, ("p99_s",))


def test_numbers_are_short() -> None:
    assert [number(n) for n in (0, 0.314, 3, 27.44, 1520.4, 18_320, 2_500_000)] == [
        "0",
        "0.31",
        "3",
        "27.4",
        "1520",
        "18.3 k",
        "2.50 M",
    ]
    assert [percent(n) for n in (0, 0.00001, 0.0033, 0.5, 1)] == [
        "0 %",
        "< 0.01 %",
        "0.33 %",
        "50.0 %",
        "100 %",
    ]
    assert [ms(n) for n in (None, 0.42, 12.34, 250, 1500)] == ["-", "0.42 ms", "12.3 ms", "250 ms", "1.5 s"]
    assert [span(n) for n in (-1, 59, 61, 3700, 90_000)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 1 min",
        "1 d 1 h",
    ]
