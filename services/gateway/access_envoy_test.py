"""Who may call which task, and how often, in the real Envoy: API keys, tokens and limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.gateway.table import AccessLog, Edge, JwtProvider, LogWhen, Table
from services.gateway.testing import WPAI_PATH, Answer, Backend, call, eventually, predict_request
from services.gateway.testing_certificates import Key, jwks, token
from services.gateway.testing_edge import EdgeEnvoy, table_of, task_of

KEYS, JWKS = Path("/keys"), Path("/jwks.json")
ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789"
SIGNER = Key.make()

OPEN, FOR_ALICE, FOR_ANYBODY, BY_TOKEN, BY_BOTH, LIMITED, BURSTING = range(60, 67)

FILES = {
    KEYS: f"# who calls\nalice {ALICE}\nbob {BOB}\n".encode(),
    JWKS: jwks(SIGNER),
}


def table(backend: Backend, **edge: Any) -> Table:
    providers = {"corp": JwtProvider("corp", "https://id.example", JWKS, ("models",))}
    return table_of(
        backend.address,
        task_of(OPEN),
        task_of(FOR_ALICE, clients=frozenset({"alice"})),
        task_of(FOR_ANYBODY, clients=frozenset({"*"})),
        task_of(BY_TOKEN, jwt="corp"),
        task_of(BY_BOTH, jwt="corp", clients=frozenset({"alice"})),
        task_of(LIMITED, max_qps=5),
        task_of(BURSTING, max_qps=5, burst=20),
        edge=Edge(api_keys=KEYS, jwt=providers, **edge),
    )


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend() as found:
        yield found


@pytest.fixture(scope="module")
def envoy(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeEnvoy]:
    log = tmp_path_factory.mktemp("log") / "access.log"
    with EdgeEnvoy(table(backend, access_log=AccessLog(str(log), LogWhen.ALL)), FILES) as found:
        yield found


@pytest.fixture(scope="module")
def channel(envoy: EdgeEnvoy) -> Iterator[grpc.Channel]:
    with envoy.channel() as found:
        yield found


def predict(channel: grpc.Channel, task: int, *metadata: tuple[str, str]) -> Answer:
    return call(channel, WPAI_PATH + "Predict", predict_request(f"model-{task}"), metadata=metadata)


def bearer(**claims: Any) -> tuple[str, str]:
    said = {"iss": "https://id.example", "aud": "models", "sub": "carol", "exp": time.time() + 600} | claims
    return "authorization", "Bearer " + token(SIGNER, said)


# --- API keys ---


@pytest.mark.parametrize("task", [FOR_ALICE, FOR_ANYBODY])
def test_a_closed_task_needs_a_key(channel: grpc.Channel, backend: Backend, task: int) -> None:
    before = len(backend.calls)
    missing = predict(channel, task)
    assert missing.code == grpc.StatusCode.UNAUTHENTICATED
    assert f"task {task} needs an API key" in missing.message and "x-api-key" in missing.message
    unknown = predict(channel, task, ("x-api-key", "not-a-key-that-exists"))
    assert unknown.code == grpc.StatusCode.UNAUTHENTICATED
    assert "is not known here" in unknown.message
    assert len(backend.calls) == before


def test_a_key_opens_the_tasks_of_its_client_only(channel: grpc.Channel) -> None:
    assert predict(channel, FOR_ALICE, ("x-api-key", ALICE)).code == grpc.StatusCode.OK
    assert predict(channel, FOR_ANYBODY, ("x-api-key", BOB)).code == grpc.StatusCode.OK
    refused = predict(channel, FOR_ALICE, ("x-api-key", BOB))
    assert refused.code == grpc.StatusCode.PERMISSION_DENIED
    assert f"may not call task {FOR_ALICE}" in refused.message
    assert BOB not in refused.message


def test_saying_the_task_oneself_opens_nothing(channel: grpc.Channel) -> None:
    for said in (str(FOR_ALICE), f"0{FOR_ALICE}"):
        answer = predict(channel, OPEN, ("x-dl-task", said))
        assert answer.code == grpc.StatusCode.UNAUTHENTICATED


def test_open_tasks_and_the_gateways_own_services_need_no_key(channel: grpc.Channel) -> None:
    assert predict(channel, OPEN).code == grpc.StatusCode.OK
    assert predict(channel, OPEN, ("x-api-key", "whatever")).code == grpc.StatusCode.OK
    assert predict(channel, 7).code == grpc.StatusCode.NOT_FOUND
    assert call(channel, "/grpc.health.v1.Health/Check", b"").code == grpc.StatusCode.OK


@pytest.mark.parametrize(("task", "client"), [(OPEN, None), (FOR_ALICE, "alice"), (FOR_ANYBODY, "alice")])
def test_instances_see_who_called_and_never_the_key(
    channel: grpc.Channel, backend: Backend, task: int, client: str | None
) -> None:
    assert predict(channel, task, ("x-api-key", ALICE), ("x-dl-client", "root")).code == grpc.StatusCode.OK
    seen = backend.calls[-1].metadata
    assert "x-api-key" not in seen and ALICE not in str(seen)
    assert seen.get("x-dl-client") == client


def test_a_new_key_counts_and_an_old_one_no_longer(envoy: EdgeEnvoy, backend: Backend) -> None:
    fresh = "alice-new-key-0123456789"
    try:
        envoy.update(envoy.table, FILES | {KEYS: f"alice {fresh}\n".encode()})
        with envoy.channel(None, ("grpc.use_local_subchannel_pool", 1)) as channel:
            assert predict(channel, FOR_ALICE, ("x-api-key", fresh)).code == grpc.StatusCode.OK
            assert predict(channel, FOR_ALICE, ("x-api-key", ALICE)).code == grpc.StatusCode.UNAUTHENTICATED
    finally:
        envoy.update(envoy.table, FILES)


# --- tokens ---


def test_a_token_is_needed_and_says_who_calls(channel: grpc.Channel, backend: Backend) -> None:
    missing = predict(channel, BY_TOKEN)
    assert missing.code == grpc.StatusCode.UNAUTHENTICATED
    assert f"task {BY_TOKEN} needs a token" in missing.message and "Jwt is missing" in missing.message
    assert predict(channel, BY_TOKEN, bearer()).code == grpc.StatusCode.OK
    seen = backend.calls[-1].metadata
    assert "authorization" not in seen
    assert seen["x-dl-client"] == "carol"


@pytest.mark.parametrize(
    ("claims", "code", "why"),
    [
        ({"exp": 1_000_000}, grpc.StatusCode.UNAUTHENTICATED, "expired"),
        ({"iss": "https://else.example"}, grpc.StatusCode.UNAUTHENTICATED, "issuer"),
        ({"aud": "others"}, grpc.StatusCode.PERMISSION_DENIED, "Audiences"),
    ],
)
def test_a_wrong_token_is_refused_with_the_reason(
    channel: grpc.Channel, claims: dict[str, Any], code: grpc.StatusCode, why: str
) -> None:
    answer = predict(channel, BY_TOKEN, bearer(**claims))
    assert answer.code == code
    assert why in answer.message


def test_a_token_of_another_signer_is_refused(channel: grpc.Channel) -> None:
    forged = token(Key.make(), {"iss": "https://id.example", "aud": "models", "sub": "carol"})
    answer = predict(channel, BY_TOKEN, ("authorization", "Bearer " + forged))
    assert answer.code == grpc.StatusCode.UNAUTHENTICATED


def test_a_task_can_ask_for_both(channel: grpc.Channel) -> None:
    assert predict(channel, BY_BOTH, bearer()).code == grpc.StatusCode.UNAUTHENTICATED
    assert predict(channel, BY_BOTH, ("x-api-key", ALICE)).code == grpc.StatusCode.UNAUTHENTICATED
    assert predict(channel, BY_BOTH, bearer(), ("x-api-key", ALICE)).code == grpc.StatusCode.OK


# --- limits ---


def test_a_limited_task_takes_its_share_and_no_more(channel: grpc.Channel) -> None:
    taken, refused, started = 0, 0, time.monotonic()
    while taken < 15 and time.monotonic() - started < 20:
        answer = predict(channel, LIMITED)
        if answer.code == grpc.StatusCode.OK:
            taken += 1
            continue
        refused += 1
        assert answer.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"task {LIMITED} is limited to 5 calls a second" in answer.message
    # 5 at once and 5 a second after that, and no other task suffers.
    assert taken == 15
    assert refused and taken <= 5 + 5 * (time.monotonic() - started) + 1
    assert predict(channel, OPEN).code == grpc.StatusCode.OK


def test_a_burst_may_be_larger_than_the_rate(channel: grpc.Channel) -> None:
    started = time.monotonic()
    codes = [predict(channel, BURSTING).code for _ in range(40)]
    took = time.monotonic() - started
    assert 20 <= codes.count(grpc.StatusCode.OK) <= 20 + 5 * took + 1


# --- secrets stay secret ---


def test_no_key_is_in_the_access_log_or_in_envoys_dump(envoy: EdgeEnvoy, channel: grpc.Channel) -> None:
    predict(channel, FOR_ALICE, ("x-api-key", ALICE))
    log = Path(envoy.table.edge.access_log.path)
    eventually(lambda: log.exists() and '"client":"alice"' in log.read_text(), "a line in the access log", 15)
    for text in (log.read_text(), envoy.admin("/config_dump")):
        assert ALICE not in text and BOB not in text
    assert SIGNER.number.to_bytes(32, "big").hex() not in log.read_text()
