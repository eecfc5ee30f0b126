from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.serving.call import HttpRequest
from libs.serving.errors import InvalidArgument, NotFound, ServingError, Unimplemented
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.protocols.model_service import ModelService
from services.tf_serving.protocols.rest import Rest, Target, fail, parse_target, routes, subject
from services.tf_serving.protocols.service import Service
from services.tf_serving.serving.servables import Servable, Servables

MAX_VERSION = (1 << 63) - 1


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("GET", "/v1/models", Target("", "")),
        ("GET", "/v1/models/m", Target("m", "")),
        ("GET", "/v1/models/metadata", Target("metadata", "")),
        ("GET", "/v1/models/m/metadata", Target("m", "metadata")),
        ("GET", "/v1/models/m/METADATA", Target("m", "metadata")),
        ("GET", f"/v1/models/m/versions/{MAX_VERSION}", Target("m", "", MAX_VERSION)),
        ("GET", "/v1/models/m/versions/007/metadata", Target("m", "metadata", 7)),
        ("GET", "/v1/models/m/labels/a%2Fb", Target("m", "", None, "a/b")),
        ("POST", "/v1/models/a%20b%3Ac%C3%A9:predict", Target("a b:cé", "predict")),
        ("POST", "/V1/Models/m/Versions/3:regress", Target("m", "regress", 3)),
        ("POST", "/v1/models/m/labels/x:classify", Target("m", "classify", None, "x")),
        ("POST", "/v1/models/%FF:predict", Target("\N{REPLACEMENT CHARACTER}", "predict")),
    ],
)
def test_what_a_path_names(method: str, path: str, target: Target) -> None:
    assert parse_target(method, path) == target
    request = HttpRequest(method, "decoded", raw_path=path)
    assert subject(request) == (target.model, target.method if method == "POST" else "")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/foo"),
        ("POST", "/v1/foo"),
        ("GET", "/v1/models/debug/model_name"),
        ("POST", "/v1/models"),
        ("GET", "/v1/models/foo:predict"),
        ("POST", "/v1/models/foo/version/50:regress"),
        ("POST", "/v1/models/foo/versions/HELLO:regress"),
        ("POST", "/v1/models/foo/metadata"),
        ("POST", "/v1/models/foo/versions/50/labels/some_label:regress"),
        ("DELETE", "/v1/models/foo"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/m/"),
        ("GET", "/v1/models/m/versions/"),
        ("GET", "/v1/models/m/versions/-1"),
        ("GET", "/v1/models/m/versions/\u0661"),  # a digit, of another script
        ("POST", "/v1/models/m:predict/"),
        ("POST", "/v1/models/m:PREDICT"),
        ("POST", "/v1/models/:predict"),
        ("POST", "/v1/models/m:explain"),
        ("PATCH", "/v1/models/m:predict"),
    ],
)
def test_what_names_nothing(method: str, path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_target(method, path)
    assert caught.value.message == f"Malformed request: {method} {path}"
    assert subject(HttpRequest(method, path)) == ("", "")


def test_a_version_beyond_64_bits() -> None:
    with pytest.raises(InvalidArgument, match=f"^Failed to convert version: {MAX_VERSION + 1} to numeric"):
        parse_target("GET", f"/v1/models/m/versions/{MAX_VERSION + 1}")


def test_errors_are_json_whatever_is_in_them() -> None:
    response = fail(400, InvalidArgument('a "b" \udcff é'))
    assert (response.status, response.content_type) == (400, "application/json")
    assert json.loads(response.body) == {"error": 'a "b" \N{REPLACEMENT CHARACTER} é'}


def test_every_method_is_answered() -> None:
    async def handler(request: HttpRequest) -> Any:
        raise NotImplementedError

    assert {route.method for route in routes(handler)} >= {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"}


@pytest.fixture(scope="module")
def servables(models: Path, recipe: Callable[[str], Path]) -> Servables:
    paths = {name: models / name / "7" for name in ("echo", "mixed")}
    paths["half"] = recipe("half_plus_two_cpu")
    return Servables([Servable(name, 7, Engine.load(path, Threads(1))) for name, path in paths.items()])


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4),
        st.sampled_from([{"b64": "aGVsbG8="}, {"b64": "="}, {"x": 1.0}, {"a": [1, 2], "b": [3, 4]}]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["x", "a", "b", "b64", "n"]), inner, max_size=3),
    ),
    max_leaves=10,
)  # fmt: skip
DOCUMENTS = st.dictionaries(st.sampled_from(["instances", "inputs", "examples", "context"]), JSON, max_size=3)
SIGNATURES = ("", "no", "two", "pick", "string", "float32", "bool", "uint64", "bfloat16", "complex64",
              "regress_x_to_y", "classify_x_to_y")  # fmt: skip


def test_no_request_is_a_defect(servables: Servables) -> None:
    """Whatever the document, there is an answer in JSON or an error of the caller's."""

    async def ask(model: str, method: str, body: bytes) -> None:
        scheduler = Scheduler(threads=1, max_queue=8)
        service = Service(servables, scheduler)
        rest = Rest(service, ModelService(servables))
        try:
            path = f"/v1/models/{model}:{method}"
            response = await rest.handle(HttpRequest("POST", path, body=body, raw_path=path))
            json.loads(response.body.decode("utf-8", "replace"))
        except (InvalidArgument, Unimplemented, NotFound) as error:
            assert error.message and json.loads(fail(400, error).body)["error"]
        finally:
            assert await scheduler.close(5)

    @settings(max_examples=1500, deadline=None)
    @given(
        model=st.sampled_from(["echo", "mixed", "half", "none"]),
        method=st.sampled_from(["predict", "classify", "regress"]),
        signature=st.sampled_from(SIGNATURES),
        document=DOCUMENTS,
    )
    def documents(model: str, method: str, signature: str, document: dict[str, Any]) -> None:
        body = json.dumps({"signature_name": signature, **document}).encode()
        asyncio.run(ask(model, method, body))

    @settings(max_examples=300, deadline=None)
    @given(body=st.one_of(st.binary(max_size=40), st.text('{}[]":,0123eE+-.NaInfty tru\\u', max_size=40)))
    def bytes_of_any_kind(body: bytes | str) -> None:
        given = body.encode() if isinstance(body, str) else body
        for wrapped in (given, b'{"inputs": ' + given + b"}"):
            asyncio.run(ask("echo", "predict", wrapped))

    documents()
    bytes_of_any_kind()


async def test_a_defect_of_the_service_is_no_error_of_the_callers(servables: Servables) -> None:
    """What is not the caller's fault passes through, for the transport to log and to hide."""
    scheduler = Scheduler(threads=1, max_queue=8)
    rest = Rest(Service(servables, scheduler), ModelService(servables))
    assert await scheduler.close(5)
    body = b'{"instances": [1.0]}'
    with pytest.raises(ServingError, match="shutting down"):
        await rest.handle(HttpRequest("POST", "/v1/models/half:predict", body=body))
