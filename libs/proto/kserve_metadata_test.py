from __future__ import annotations

import pytest

from libs.proto import messages
from libs.proto.kserve_metadata import (
    decode_index_request,
    decode_model_name,
    encode_flag,
    encode_index,
    encode_model_metadata,
    encode_server_metadata,
)
from libs.proto.wire import ProtoError


def test_names_and_flags() -> None:
    for kind in (messages.ModelReadyRequest, messages.ModelMetadataRequest):
        assert decode_model_name(kind(name="模", version="3").SerializeToString()) == ("模", "3")
        assert decode_model_name(b"") == ("", "")
        with pytest.raises(ProtoError):
            decode_model_name(b"\x0a\x05x")
    for value in (True, False):
        assert messages.ServerReadyResponse.FromString(encode_flag(value)).ready is value


def test_metadata() -> None:
    server = messages.ServerMetadataResponse.FromString(encode_server_metadata("s", "1", ["a", "b"]))
    assert (server.name, server.version, list(server.extensions)) == ("s", "1", ["a", "b"])
    model = messages.ModelMetadataResponse.FromString(
        encode_model_metadata("m", ["1", "3"], "pytorch", [("x", "FP32", (-1, 138))], [("y", "BYTES", ())])
    )
    assert (model.name, list(model.versions), model.platform) == ("m", ["1", "3"], "pytorch")
    (x,), (y,) = model.inputs, model.outputs
    assert (x.name, x.datatype, list(x.shape)) == ("x", "FP32", [-1, 138])
    assert (y.name, y.datatype, list(y.shape)) == ("y", "BYTES", [])


def test_the_repositorys_index() -> None:
    for ready in (True, False):
        request = messages.RepositoryIndexRequest(repository_name="r", ready=ready)
        assert decode_index_request(request.SerializeToString()) is ready
    response = messages.RepositoryIndexResponse.FromString(
        encode_index([("m", "1", "READY", ""), ("m", "2", "UNAVAILABLE", "why")])
    )
    assert [(m.name, m.version, m.state, m.reason) for m in response.models] == [
        ("m", "1", "READY", ""),
        ("m", "2", "UNAVAILABLE", "why"),
    ]
