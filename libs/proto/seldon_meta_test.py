from __future__ import annotations

from libs.proto.messages import Meta as MetaMessage
from libs.proto.messages import SeldonMessage
from libs.proto.seldon import (
    Metric,
    Status,
    decode_message,
    decode_meta,
    decode_status,
    encode_message,
    encode_meta,
    encode_status,
)


def test_meta_and_status_round_trip() -> None:
    raw = encode_meta(
        puid="p",
        tags={"taskId": 39, "name": "x", "half": 0.5, "list": [1, "a"]},
        routing={"router": -2},
        request_path={"node": "image:1"},
        metrics=[Metric("m", 1.5, 2, {"k": "v"}), Metric("n", 2.0)],
    )
    official = MetaMessage.FromString(raw)
    assert official.tags["taskId"].number_value == 39
    assert dict(official.routing) == {"router": -2}
    assert dict(official.requestPath) == {"node": "image:1"}
    assert [(item.key, item.type, item.value, dict(item.tags)) for item in official.metrics] == [
        ("m", 2, 1.5, {"k": "v"}),
        ("n", 0, 2.0, {}),
    ]
    for data in (raw, official.SerializeToString()):
        meta = decode_meta(data)
        assert meta.tags == {"taskId": 39, "name": "x", "half": 0.5, "list": [1.0, "a"]}
        assert (meta.puid, meta.routing, meta.request_path) == ("p", {"router": -2}, {"node": "image:1"})
        assert meta.metrics == [Metric("m", 1.5, 2, {"k": "v"}), Metric("n", 2.0, 0, {})]
    status = Status(-1, "信息", "reason", True)
    message = SeldonMessage.FromString(encode_message(None, None, status=encode_status(status)))
    assert (message.status.code, message.status.info, message.status.reason, message.status.status) == (
        -1,
        "信息",
        "reason",
        1,
    )
    assert decode_status(message.status.SerializeToString()) == status
    assert decode_status(b"") == Status()


def test_whole_tags_are_ints_and_others_stay() -> None:
    tags = decode_message(
        encode_message(
            None, None, meta=encode_meta(tags={"a": 1e300, "b": 2.0, "c": float("inf"), "d": True})
        )
    ).tags
    assert repr(tags) == repr({"a": int(1e300), "b": 2, "c": float("inf"), "d": True})
