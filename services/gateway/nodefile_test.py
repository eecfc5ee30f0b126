from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.balancing.endpoint import Endpoint
from libs.balancing.nodefile import DEFAULT_TIMEOUT_MS, MAX_TASK_ID, MAX_TIMEOUT_MS
from services.gateway.configuration_errors import ConfigInvalid
from services.gateway.nodefile import parse
from services.gateway.table import Table


def errors_of(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigInvalid) as invalid:
        parse(text.encode() if isinstance(text, str) else text, Path("nodes.txt"))
    return [error.render() for error in invalid.value.errors]


def instances(table: Table, task_id: int) -> list[Endpoint]:
    return list(table.pools[table.tasks[task_id].pool].members)


def test_the_published_example_reads() -> None:
    table = parse(b"100=100,172.11.71.188:8888,172.11.71.188:8866\n69=1000,172.11.71.187:8866\n")
    assert table.tasks[100].timeout_ms == 100
    assert instances(table, 100) == [Endpoint("172.11.71.188", 8888), Endpoint("172.11.71.188", 8866)]
    assert table.tasks[69].timeout_ms == 1000
    assert table.tasks[69].line == 2


def test_comments_blanks_spaces_bom_and_line_ends() -> None:
    data = b"\xef\xbb\xbf# models\r\n\r\n  69 = 100 , a.svc:1 , [::1]:2  # textcnn \xe6\x96\x87\n"
    table = parse(data)
    assert table.tasks.keys() == {69}
    assert instances(table, 69) == [Endpoint("a.svc", 1), Endpoint("::1", 2)]
    assert table.names() == {"a.svc"}


@pytest.mark.parametrize("line", ["69=a:1,b:2", "69=,a:1,b:2"])
def test_a_timeout_left_out_is_the_default(line: str) -> None:
    table = parse(line.encode())
    assert table.tasks[69].timeout_ms == DEFAULT_TIMEOUT_MS == 100
    assert len(instances(table, 69)) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("69:100", "nodes.txt:1: line: '69:100' has no '='"),
        ("1=2=3", "more than one '='"),
        ("x=1,a:1", "nodes.txt:1: task: 'x' is not a task id"),
        ("0=1,a:1", "not a task id"),
        ("069=1,a:1", "hint: write 69"),
        (f"{MAX_TASK_ID + 1}=1,a:1", "not a task id"),
        ("1=0,a:1", "nodes.txt:1: timeout: '0' is not a timeout"),
        (f"1={MAX_TIMEOUT_MS + 1},a:1", "milliseconds from 1 to 3600000"),
        ("1=100ms,a:1", "hint: write milliseconds as a bare number: 100"),
        ("1=fast,a:1", "hint: the timeout comes first"),
        ("1=5", "nodes.txt:1: endpoints: there is none"),
        ("1=5,a:1,,b:2", "nodes.txt:1: endpoint 2: is empty"),
        ("1=5,a:1,b", "nodes.txt:1: endpoint 2: 'b' has no port"),
        ("1=5,a:1,A:1", "endpoint 2: a:1 is there twice"),
        ("1=5,a:1\n\n1=5,b:1", "nodes.txt:3: task: 1 is already on line 1"),
        (b"1=5,a:1\n2=5,\xff:1", "nodes.txt:2: line: is not UTF-8"),
        ("# nothing\n", "nodes.txt: file: has no task"),
        ("", "nodes.txt: file: has no task"),
    ],
)
def test_each_error_names_line_field_and_remedy(text: str | bytes, expected: str) -> None:
    found = errors_of(text)
    assert len(found) == 1
    assert expected in found[0]
    assert "expected" in found[0]


def test_no_error_is_longer_than_a_person_reads() -> None:
    (found,) = errors_of(f"1=5,a:{'1' * 100_000}")
    assert len(found) < 1000
    assert "is not a port; expected a whole number" in found


def test_every_error_is_reported_at_once_in_order() -> None:
    found = errors_of("x=1,a:1\n1=oops,a,b:1\n2=5,c:1\njunk\n")
    assert [error.split(": ")[0] for error in found] == [
        "nodes.txt:1",
        "nodes.txt:2",
        "nodes.txt:2",
        "nodes.txt:4",
    ]


TASKS = st.dictionaries(
    st.integers(1, MAX_TASK_ID),
    st.tuples(
        st.integers(1, MAX_TIMEOUT_MS),
        st.lists(
            st.builds(
                lambda a, p: Endpoint.parse(str(Endpoint(str(a), p))),
                st.ip_addresses(),
                st.integers(1, 65535),
            ),
            min_size=1,
            max_size=5,
            unique=True,
        ),
    ),
    min_size=1,
    max_size=8,
)


@given(TASKS)
def test_what_is_written_is_read_back(tasks: dict[int, tuple[int, list[Endpoint]]]) -> None:
    text = "".join(f"{i}={t},{','.join(map(str, e))}\n" for i, (t, e) in tasks.items())
    table = parse(text.encode())
    assert {i: (t.timeout_ms, instances(table, i)) for i, t in table.tasks.items()} == tasks


@given(st.one_of(st.binary(max_size=200), st.text("0123456789=,.:[]#ab \n", max_size=80).map(str.encode)))
def test_any_bytes_give_a_valid_table_or_errors(data: bytes) -> None:
    try:
        table = parse(data)
    except ConfigInvalid as invalid:
        assert invalid.errors
        assert [e.line for e in invalid.errors] == sorted(e.line for e in invalid.errors)
    else:
        assert table.tasks
        assert all(1 <= t.timeout_ms <= MAX_TIMEOUT_MS for t in table.tasks.values())
        assert all(instances(table, task_id) for task_id in table.tasks)
