from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from libs.serving.call import Call
from libs.serving.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from libs.serving.versions import State, VersionState
from services.tf_serving.execution.engine import Engine
from services.tf_serving.protocols.model_service import ModelService
from services.tf_serving.serving.servables import Servable, Servables

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


@pytest.fixture
def servables() -> Servables:
    engine = cast(Engine, None)  # never run here
    return Servables([Servable("half", 12, engine), Servable("half", 7, engine)])


async def call(service: ModelService, method: str, body: bytes) -> bytes:
    return await service.handlers()[method](Call(method, {}), body)


async def status(service: ModelService, **spec: Any) -> list[tuple[int, int, int, str]]:
    from tensorflow_serving.apis import get_model_status_pb2 as pb

    request = pb.GetModelStatusRequest()
    request.model_spec.name = spec["name"]
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    response = pb.GetModelStatusResponse.FromString(await call(service, STATUS, request.SerializeToString()))
    assert all(version.HasField("status") for version in response.model_version_status)
    return [
        (v.version, v.state, v.status.error_code, v.status.error_message)
        for v in response.model_version_status
    ]


async def test_status_lists_the_versions_newest_first(servables: Servables) -> None:
    service = ModelService(servables)
    assert await status(service, name="half") == [(12, 30, 0, ""), (7, 30, 0, "")]
    assert await status(service, name="half", version=7) == [(7, 30, 0, "")]
    servables.labels = {"half": {"stable": 7}}
    assert await status(service, name="half", label="stable") == [(7, 30, 0, "")]


async def test_status_of_what_is_not_there(servables: Servables) -> None:
    service = ModelService(servables)
    with pytest.raises(NotFound, match="Could not find version 9 of model half"):
        await status(service, name="half", version=9)
    with pytest.raises(NotFound, match="Could not find any versions of model nothing"):
        await status(service, name="nothing")
    with pytest.raises(InvalidArgument, match="Unrecognized servable version label: stable"):
        await status(service, name="half", label="stable")


async def test_status_says_why_a_version_is_not_there(servables: Servables) -> None:
    def told(name: str) -> Sequence[VersionState]:
        return [
            VersionState(1, State.END),
            VersionState(2, State.END, "no variables"),
            VersionState(3, State.AVAILABLE, "its newer files are cut off"),
            VersionState(4, State.LOADING),
        ]

    servables.tell_states(told)
    assert await status(ModelService(servables), name="half") == [
        (4, 20, 0, ""),
        (3, 30, 0, ""),
        (2, 50, 2, "no variables"),
        (1, 50, 0, ""),
    ]


async def test_bytes_that_are_no_request_are_refused(servables: Servables) -> None:
    service = ModelService(servables)
    with pytest.raises(InvalidArgument, match=r"not a tensorflow\.serving\.GetModelStatusRequest"):
        await call(service, STATUS, b"\x0a\xff")
    with pytest.raises(InvalidArgument, match="Missing ModelSpec"):
        await call(service, STATUS, b"")
    with pytest.raises(InvalidArgument, match=r"not a tensorflow\.serving\.ReloadConfigRequest"):
        await call(service, RELOAD, b"\x0a\xff")


async def test_a_reload_gets_the_list_and_answers_when_it_is_done(servables: Servables) -> None:
    from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse

    given: list[str] = []

    async def reload(config: Any) -> None:
        given.extend(model.name for model in config.model_config_list.config)
        if "bad" in given:
            raise FailedPrecondition("no")

    service = ModelService(servables, reload)
    request = ReloadConfigRequest()
    for refused in (request, ReloadConfigRequest(config={"custom_model_config": {}})):
        with pytest.raises(InvalidArgument, match="Only ModelConfigList is currently supported"):
            await call(service, RELOAD, refused.SerializeToString())
    request.config.model_config_list.config.add(name="half")
    response = ReloadConfigResponse.FromString(await call(service, RELOAD, request.SerializeToString()))
    assert (given, response.status.error_code) == (["half"], 0)
    request.config.model_config_list.config.add(name="bad")
    with pytest.raises(FailedPrecondition, match="no"):
        await call(service, RELOAD, request.SerializeToString())


async def test_reloads_may_be_switched_off(servables: Servables) -> None:
    with pytest.raises(PermissionDenied, match="--enable-reload-config=false"):
        await call(ModelService(servables), RELOAD, b"")
