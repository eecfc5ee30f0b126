from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import PolicyName
from services.gateway import configuration
from services.gateway.configuration import Loaded, Sources, load
from services.gateway.configuration_errors import ConfigInvalid
from services.gateway.listener_files import log_problem
from services.gateway.table import (
    AccessLog,
    BackendTls,
    HealthCheck,
    JwtProvider,
    ListenerTls,
    LogWhen,
    Place,
    Share,
    Tracing,
)

HERE = Path("/etc/gateway")
TOML = HERE / "gateway.toml"
NODES = HERE / "nodefile.txt"
KEYS = {HERE / "keys.txt": b"search 0123456789abcdef\nads 0123456789abcdefg\na 0123456789abcdefgh\n"}
EXAMPLE = Path(__file__).with_name("gateway.example.toml").read_bytes()
CERTIFICATES = ("models-ca.pem", "callers-ca.pem", "gateway.pem", "gateway.key", "public.pem", "public.key")
EXAMPLE_FILES = KEYS | {NODES: b"39=900,digits.svc:8866\n7=,a:1\n", HERE / "jwks.json": b'{"keys": []}'}
EXAMPLE_FILES |= {HERE / "certs" / name: b"" for name in CERTIFICATES}

GOOD = '[tasks.69]\nendpoints = ["10.0.0.1:1"]\n'


def loaded(
    toml: str | bytes | None = None,
    nodes: str | bytes | None = None,
    files: dict[Path, bytes] | None = None,
    *,
    flag: bool = True,
) -> Loaded:
    """What a gateway.toml and a node file give; the node file is named by --nodes unless `flag` is False."""
    contents = dict(files or {})
    for path, text in ((TOML, toml), (NODES, nodes)):
        if text is not None:
            contents[path] = text.encode() if isinstance(text, str) else text

    def read(path: Path) -> bytes:
        if path not in contents:
            raise FileNotFoundError(2, "No such file or directory")
        return contents[path]

    return load(
        Sources(
            nodes=NODES if flag and nodes is not None else None, config=TOML if toml is not None else None
        ),
        read,
    )


def errors(toml: str | bytes | None = None, nodes: str | None = None, **how: bool) -> list[str]:
    with pytest.raises(ConfigInvalid) as invalid:
        loaded(toml, nodes, KEYS, **how)
    return [error.render().removeprefix(f"{HERE}/") for error in invalid.value.errors]


# --- what a file can say ---


def test_a_node_file_alone() -> None:
    found = loaded(nodes="69=100,10.0.0.1:1\n")
    assert found.table.tasks[69].places == (Place(NODES, 1),)
    assert found.files == {NODES: b"69=100,10.0.0.1:1\n"}


def test_a_task_with_a_pool_of_its_own() -> None:
    table = loaded(
        '[tasks.69]\nendpoints = ["10.0.0.1:1", {address = "[::1]:2", weight = 7}]\npolicy = "weighted"\n'
        'health_check = "tcp"\nmax_in_flight = 5\nmax_queued = 1\nretry_budget_percent = 50\nretries = 0\n'
    ).table
    task, pool = table.tasks[69], table.pools["task-69"]
    assert task.pool == "task-69"
    assert (task.timeout_ms, task.retries, task.line) == (100, 0, 1)
    assert pool.members == {Endpoint("10.0.0.1", 1): 100, Endpoint("::1", 2): 7}
    assert (pool.policy, pool.health_check) == (PolicyName.WEIGHTED, HealthCheck.TCP)
    assert (pool.max_in_flight, pool.max_queued, pool.retry_budget_percent) == (5, 1, 50)


def test_defaults_hold_where_nothing_else_is_said() -> None:
    table = loaded(
        '[defaults]\ntimeout_ms = 7\npolicy = "round_robin"\nmax_qps = 3\nclients = ["a"]\ntls = {server_name = "m"}\n'
        '[auth]\napi_keys = "keys.txt"\n[pools.p]\nendpoints = ["a:1"]\n[tasks.1]\npool = "p"\n'
        '[tasks.2]\nendpoints = ["b:1"]\ntimeout_ms = 8\npolicy = "peak_ewma"\ntls = false\nclients = false\n',
        files=KEYS,
        nodes="3=,c:1\n4=9,d:1\n",
    ).table
    assert {task.task_id: task.timeout_ms for task in table.tasks.values()} == {1: 7, 2: 8, 3: 7, 4: 9}
    assert table.pools["p"].policy == table.pools["task-3"].policy == PolicyName.ROUND_ROBIN
    assert table.pools["task-2"].policy == PolicyName.PEAK_EWMA
    assert table.pools["p"].tls == BackendTls(server_name="m")
    assert table.pools["task-2"].tls is None
    assert table.tasks[1].clients == frozenset({"a"})
    assert table.tasks[2].clients is None
    assert {task.max_qps for task in table.tasks.values()} == {3}


@pytest.mark.parametrize("flag", [True, False])
def test_a_file_refines_the_lines_of_a_node_file(flag: bool) -> None:
    toml = '[tasks.69]\ntimeout_ms = 250\npolicy = "round_robin"\n[tasks.70]\nendpoints = ["b:1"]\n'
    found = loaded(toml if flag else 'nodes = "nodefile.txt"\n' + toml, "1=5,c:1\n69=100,a:1\n", flag=flag)
    task = found.table.tasks[69]
    assert task.timeout_ms == 250
    assert task.places == (Place(NODES, 2), Place(TOML, 1 if flag else 2))
    assert found.table.pools["task-69"].members == {Endpoint("a", 1): 100}
    assert found.table.pools["task-69"].policy == PolicyName.ROUND_ROBIN
    assert found.table.tasks.keys() == {1, 69, 70}
    assert found.files.keys() == {TOML, NODES}


def test_shares_and_fallbacks_are_pools() -> None:
    table = loaded(
        '[pools.p]\nendpoints = ["a:1"]\nfallback = ["f:1"]\n[pools.q]\nendpoints = ["q:1"]\n'
        '[tasks.1]\npool = "p"\ncanary = {pool = "q", percent = 12.5}\nshadow = {endpoints = ["s:1"], percent = 100}\n'
        '[tasks.2]\nendpoints = ["b:1"]\nmax_in_flight = 9\nfallback = ["g:1"]\n'
        'canary = {endpoints = ["c:1"], percent = 0}\n'
    ).table
    assert table.tasks[1].canary == Share("q", 12.5)
    assert table.tasks[1].shadow == Share("task-1-shadow", 100)
    assert [pool.name for pool in table.chain("p")] == ["p", "dl-p-fallback"]
    assert [pool.name for pool in table.chain("task-2")] == ["task-2", "task-2-fallback"]
    assert table.tasks[2].canary is None  # paused
    assert table.pools["task-2-canary"].max_in_flight == 9
    assert table.pools["task-2-canary"].fallback == ""
    assert list(table.pools["task-2-fallback"].members) == [Endpoint("g", 1)]
    assert {e.host for pool in table.pools.values() for e in pool.members} == set("afqsbgc")


def test_the_example_has_every_key_and_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "check_files", lambda *_: [])  # what is in the certificates
    found = loaded(EXAMPLE, files=EXAMPLE_FILES)
    table, edge = found.table, found.table.edge
    assert table.tasks.keys() == {7, 39, 69, 70}
    assert table.tasks[69].clients == frozenset({"search", "ads"})
    assert table.tasks[69].burst == 200
    assert table.tasks[69].canary == Share("candidate", 5)
    assert table.tasks[39].timeout_ms == 1500
    assert [pool.name for pool in table.chain("gpu")] == ["gpu", "cpu"]
    assert table.pools["gpu"].tls == BackendTls(
        HERE / "certs/models-ca.pem",
        HERE / "certs/gateway.pem",
        HERE / "certs/gateway.key",
        "models.internal",
    )
    assert edge.tls == ListenerTls(
        HERE / "certs/public.pem", HERE / "certs/public.key", HERE / "certs/callers-ca.pem"
    )
    login = JwtProvider("login", "https://login.example", HERE / "jwks.json", ("models",))
    assert (edge.api_keys, edge.jwt) == (HERE / "keys.txt", {"login": login})
    assert edge.access_log == AccessLog(str(HERE / "access.log"), LogWhen.ERRORS, 100)
    assert edge.tracing == Tracing(Endpoint("otel-collector.monitoring.svc", 4317), 1, "dl-gateway")
    assert edge.cors_origins == ("https://shop.example",)
    assert found.files.keys() == table.files() | {TOML, NODES}


def test_the_files_own_defaults_are_those_that_the_example_names() -> None:
    example = EXAMPLE.decode()
    plain = loaded(GOOD).table
    section = example[example.index("[defaults]") : example.index("# --- pools")]
    assert loaded(section + GOOD).table == plain
    section = example[example.index("max_connections") : example.index("cors_origins")]
    assert loaded("[listener]\n" + section + GOOD).table == plain


# --- what is wrong ---


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("a = [", "gateway.toml:1: line: is not TOML"),
        (
            'x = 1\n[tasks.69]\npolicy = fast\nendpoints=["a:1"]',
            'hint: text goes in quotes: policy = "round_robin"',
        ),
        ("[tasks.69]\n[tasks.69]\n", "gateway.toml:2: line: is not TOML: Cannot declare"),
        (b"a = 1\nb = '\xff'\n", "gateway.toml:2: line: is not UTF-8"),
        ("a = " + "[" * 10_000, "nested too deeply"),
        ("a = " + "1" * 10_000, "is not TOML"),
        ("", "gateway.toml: file: has no task; expected at least one [tasks.ID]"),
        (GOOD + "tiemout_ms = 5", "gateway.toml:3: tasks.69.tiemout_ms: is not known"),
        (GOOD + "tiemout_ms = 5", "hint: did you mean timeout_ms?"),
        (GOOD + "[pols.x]", "gateway.toml:3: pols: is not known"),
        (
            GOOD + "timeout_ms = '100ms'",
            "gateway.toml:3: tasks.69.timeout_ms: is '100ms'; expected a whole number",
        ),
        (GOOD + "timeout_ms = '100ms'", "hint: write a bare number, without quotes and unit: 100"),
        (GOOD + "timeout_ms = 0", "is 0; expected a whole number of milliseconds from 1 to 3600000"),
        (GOOD + "timeout_ms = true", "is true; expected a whole number"),
        (GOOD + "timeout_ms = 1" + "0" * 4000, "is a number far too large"),
        (GOOD + "timeout_ms = 1979-05-27", "is 1979-05-27; expected"),
        (GOOD + "retries = -1", "retries from 0 to 10"),
        (GOOD + 'policy = "least-request"', "did you mean least_request?"),
        (GOOD + 'policy = ["x"]', 'tasks.69.policy: is a list; expected one of "round_robin", "weighted"'),
        (GOOD + "burst = 5", "gateway.toml:3: tasks.69.burst: has no max_qps beside it"),
        (
            GOOD + 'pool = "p"\n[pools.p]\nendpoints = ["a:1"]',
            "gateway.toml:2: tasks.69.endpoints: stands beside pool",
        ),
        (
            '[tasks.69]\npool = "gpo"\n[pools.gpu]\nendpoints = ["a:1"]',
            "tasks.69.pool: there is no pool 'gpo'",
        ),
        ('[tasks.69]\npool = "gpo"\n[pools.gpu]\nendpoints = ["a:1"]', "hint: did you mean gpu?"),
        ("[tasks.69]\ntimeout_ms = 5", "gateway.toml:1: tasks.69: has neither endpoints nor a pool"),
        ('[tasks.69]\nendpoints = "a:1"', "hint: write a list: endpoints = ['a:1']"),
        ("[tasks.69]\nendpoints = []", "tasks.69.endpoints: is a list; expected a list of"),
        ('[tasks.69]\nendpoints = [\n"a:1",\n"b"]', "gateway.toml:4: tasks.69.endpoints[2]: 'b' has no port"),
        ('[tasks.69]\nendpoints = ["a:1", "A:1"]', "tasks.69.endpoints[2]: a:1 is there twice"),
        ("[tasks.69]\nendpoints = [{weight = 1}]", "tasks.69.endpoints[1]: has no address"),
        ("[tasks.69]\nendpoints = [{address = 'a:1', weight = 1001}]", "endpoints[1].weight: is 1001"),
        ("[tasks.69]\nendpoints = [{address = 'a:1', wait = 1}]", "did you mean weight?"),
        ("[tasks.textcnn-69]\nendpoints = ['a:1']", "hint: write [tasks.69]"),
        ("[tasks.069]\nendpoints = ['a:1']", "tasks.069: '069' is not a task id"),
        (GOOD + '"odd\\nkey" = 5', "gateway.toml:3: tasks.69.'odd\\nkey': is not known"),
        ("tasks = 5", "gateway.toml:1: tasks: is 5; expected tables: [tasks.NAME]"),
        ("[tasks]\n69 = 5", "gateway.toml:2: tasks.69: is 5; expected a table"),
        (GOOD + "[pools.'task-1']\nendpoints = ['a:1']", "is not a pool's name"),
        (GOOD + "[pools.p]\npolicy = 'weighted'", "gateway.toml:3: pools.p: has no endpoints"),
        (GOOD + "canary = {pool = 'p'}\n[pools.p]\nendpoints = ['a:1']", "tasks.69.canary: has no percent"),
        (GOOD + "canary = {percent = 5}", "tasks.69.canary: has no pool"),
        (GOOD + "canary = {endpoints = ['a:1'], percent = 101}", "canary.percent: is 101; expected percent"),
        (GOOD + "canary = {endpoints = ['a:1'], percent = nan}", "canary.percent: is nan"),
        (GOOD + "canary = {endpoints = ['a:1'], percent = '5%'}", "hint: write a bare number"),
        (
            "[tasks.69]\npool='p'\ncanary={pool='p', percent=5}\n[pools.p]\nendpoints=['a:1']",
            "the task's own pool",
        ),
        (GOOD + "fallback = 'cpu'", "tasks.69.fallback: there is no pool 'cpu'"),
        (GOOD + "fallback = 'cpu'", "hint: add [pools.cpu]"),
        (GOOD + "[pools.p]\nendpoints=['a:1']\nfallback='p'", "pools.p.fallback: goes in a circle: p -> p"),
        (
            GOOD + "[pools.p]\nendpoints=['a:1']\nfallback='q'\n[pools.q]\nendpoints=['a:1']\nfallback='p'",
            "gateway.toml:5: pools.p.fallback: goes in a circle: p -> q -> p",
        ),
        (GOOD + "clients = ['a']", "tasks.69.clients: has no list of keys to go by"),
        (GOOD + "clients = []", "tasks.69.clients: is a list; expected names"),
        (GOOD + "clients = ['*', 'a']\n[auth]\napi_keys = 'keys.txt'", "alone for all that have a key"),
        (GOOD + "clients = ['serach']\n[auth]\napi_keys = 'keys.txt'", "has no client 'serach'"),
        (GOOD + "clients = ['serach']\n[auth]\napi_keys = 'keys.txt'", "hint: did you mean search?"),
        (GOOD + "[listener]\ntls = {cert = 'keys.txt', key = 'keys.txt'}", "keys.txt: certificate: holds no"),
        (GOOD + "jwt = 'logn'\n[auth.jwt.login]\nissuer='i'\njwks='keys.txt'", "hint: did you mean login?"),
        (GOOD + "[auth.jwt.login]\njwks='keys.txt'", "auth.jwt.login: has no issuer"),
        (
            GOOD + "[auth]\napi_keys = 'kyes.txt'",
            "auth.api_keys: /etc/gateway/kyes.txt: cannot be read: No such file",
        ),
        (GOOD + "tls = true", "tasks.69.tls: has no server_name, and an instance is given by its number"),
        (GOOD + "tls = {server_name='m', cert='keys.txt'}", "tasks.69.tls: has only one of cert and key"),
        (GOOD + "tls = {server_name='m', ca='x.pem'}", "tasks.69.tls.ca: /etc/gateway/x.pem: cannot be read"),
        (GOOD + "[listener]\ntls = {cert = 'keys.txt'}", "listener.tls: has no key"),
        (GOOD + "[listener]\ncors_origins = ['https://a/']", "listener.cors_origins[1]: is 'https://a/'"),
        (GOOD + "[listener]\nweb = false\ncors_origins = ['*']", "cors_origins: has no effect"),
        (GOOD + "[access_log]\nwhen = 'error'", "hint: did you mean errors?"),
        (GOOD + "[tracing]\ncollector = 'otel'", "tracing.collector: 'otel' has no port"),
        (GOOD + "[tracing]", "tracing: has no collector"),
        (GOOD + "[defaults]\npool = 'p'", "defaults.pool: cannot be a default"),
        (GOOD + "[[listener]]", "listener: is a list; expected a table"),
    ],
)
def test_each_error_names_line_field_and_remedy(toml: str | bytes, expected: str) -> None:
    assert any(expected in line for line in errors(toml)), errors(toml)


def test_every_error_of_both_files_is_reported_at_once_in_order() -> None:
    found = errors(
        '[pools.a]\nendpoints = ["x"]\nfallback = "b"\n[tasks.1]\npool = "c"\nretries = "2"\n[tasks.9]\nretries=1\n',
        "9=5,a\n10=oops,b:1\n",
    )
    assert [line.split(": ")[0] for line in found] == [
        "gateway.toml:2",
        "gateway.toml:3",
        "gateway.toml:5",
        "gateway.toml:6",
        "nodefile.txt:1",
        "nodefile.txt:2",
    ]


def test_a_tasks_endpoints_stand_in_one_file() -> None:
    (found,) = errors('[tasks.69]\nendpoints = ["a:1"]\n', "1=,b:1\n69=,b:1\n")
    assert found.startswith(f"gateway.toml:2: tasks.69.endpoints: task 69 has endpoints at {NODES}:2 already")
    (found,) = errors("[tasks.69]\ntimeout_ms = 1\n", "1=,b:1\n")
    assert f"has neither endpoints nor a pool, and {NODES} has no line of this task" in found


def test_two_node_files_are_one_too_many() -> None:
    (found,) = errors('nodes = "other.txt"\n', "1=,b:1\n")
    assert found.startswith("gateway.toml:1: nodes: is given by --nodes too")
    (found,) = errors('nodes = "other.txt"\n' + GOOD)
    assert found.startswith("gateway.toml:1: nodes: /etc/gateway/other.txt: cannot be read: No such file")


def test_a_missing_file_is_an_error_like_any_other() -> None:
    for sources in (Sources(nodes=HERE / "no"), Sources(config=HERE / "no")):
        with pytest.raises(ConfigInvalid) as invalid:
            load(sources)
        (error,) = invalid.value.errors
        assert error.render().startswith("/etc/gateway/no: file: cannot be read: No such file or directory")
        assert invalid.value.files == {HERE / "no"}


def test_an_access_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("[access_log]\npath = 'no/log'\n[tasks.5]\nendpoints = ['10.0.0.1:1']\n")
    with pytest.raises(ConfigInvalid) as invalid:
        load(Sources(config=config), log_problem=log_problem)
    (error,) = invalid.value.errors
    assert error.render().startswith(
        f"{config}:2: access_log.path: {tmp_path}/no/log is in a folder that is not"
    )
    load(Sources(config=config))


def test_an_error_of_a_default_is_reported_once() -> None:
    tasks = "".join(f"[tasks.{i}]\nendpoints = ['10.0.0.1:1']\n" for i in range(1, 50))
    found = errors("[defaults]\ntls = true\njwt = 'x'\nclients = ['a']\n" + tasks)
    assert [line.split(": ")[1] for line in found] == ["defaults.tls", "defaults.jwt", "defaults.clients"]


# --- whatever comes ---


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file after a few slips of a hand: characters changed, lost and doubled, lines moved, pieces cut out."""
    text = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(text))
        end = min(len(text), at + rng.choice((1, 1, 3, 20, 200)))
        match rng.randrange(5):
            case 0:
                text[at:end] = b""
            case 1:
                text[at:at] = rng.choice(
                    (b"[", b"]", b'"', b"\n", b"=", b"0", b"-1", b".", b"{", b"'", b"\xff", b"\\")
                )
            case 2:
                text[at] = rng.randrange(256)
            case 3:
                text[at:at] = text[rng.randrange(len(text)) :][: end - at]
            case _:
                lines = text.splitlines(keepends=True)
                lines[rng.randrange(len(lines))] = rng.choice(lines)
                text = bytearray(b"".join(lines))
        if not text:
            break
    return bytes(text)


def test_any_mutation_of_the_example_gives_a_table_or_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "check_files", lambda *_: [])  # the certificates are empty
    rng = random.Random(69)
    bare = "\n".join(
        line.partition("  #")[0]
        for line in EXAMPLE.decode().splitlines()
        if line and not line.startswith("#")
    ).encode()
    tables = 0
    for _ in range(1500):
        toml = mutated(bare, rng)
        try:
            table = loaded(toml, files=EXAMPLE_FILES).table
        except ConfigInvalid as invalid:
            assert invalid.errors
            for error in invalid.errors:
                assert 0 <= error.line <= toml.count(b"\n") + 2
                assert error.field and error.problem and error.expected
                assert "\n" not in error.render()
        else:
            tables += 1
            assert all(name in table.pools for task in table.tasks.values() for name in task.pools())
    assert 20 < tables < 1400  # a slip may fall into a value; most do not


@pytest.mark.parametrize("pools", [False, True])
def test_a_thousand_tasks_load_in_seconds(pools: bool) -> None:
    endpoints = 'endpoints = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"]\n'
    if pools:
        text = "".join(f'[pools.p{i}]\n{endpoints}[tasks.{i}]\npool = "p{i}"\n' for i in range(1, 1001))
    else:
        text = "".join(f"[tasks.{i}]\n{endpoints}timeout_ms = 5\n" for i in range(1, 1001))
    started = time.perf_counter()
    assert len(loaded(text).table.tasks) == 1000
    assert time.perf_counter() - started < 3.0  # 0.3 s on an idle core
