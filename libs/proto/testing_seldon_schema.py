"""What seldon-core's messages and services are, as far as libs/proto/seldon.proto has them.

seldon-core's classes and our generated ones need different versions of protobuf and cannot be loaded in one
process. So each is compared with this table, in its own environment: see schema_test.py and
schema_seldon_test.py. A field's entry is as in `testing.FieldSchema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SELDON_SCHEMA: dict[str, Mapping[str, Any]] = {
    "seldon.protos.SeldonMessage": {
        "status": (1, 11, False, "seldon.protos.Status", "", "status"),
        "meta": (2, 11, False, "seldon.protos.Meta", "", "meta"),
        "data": (3, 11, False, "seldon.protos.DefaultData", "data_oneof", "data"),
        "binData": (4, 12, False, "", "data_oneof", "binData"),
        "strData": (5, 9, False, "", "data_oneof", "strData"),
        "jsonData": (6, 11, False, "google.protobuf.Value", "data_oneof", "jsonData"),
        "customData": (7, 11, False, "google.protobuf.Any", "data_oneof", "customData"),
    },
    "seldon.protos.DefaultData": {
        "names": (1, 9, True, "", "", "names"),
        "tensor": (2, 11, False, "seldon.protos.Tensor", "data_oneof", "tensor"),
        "ndarray": (3, 11, False, "google.protobuf.ListValue", "data_oneof", "ndarray"),
        "tftensor": (4, 11, False, "tensorflow.TensorProto", "data_oneof", "tftensor"),
    },
    "seldon.protos.Tensor": {
        "shape": (1, 5, True, "", "", "shape"),
        "values": (2, 1, True, "", "", "values"),
    },
    "seldon.protos.Meta": {
        "puid": (1, 9, False, "", "", "puid"),
        "tags": (2, 11, True, "seldon.protos.Meta.TagsEntry", "", "tags"),
        "routing": (3, 11, True, "seldon.protos.Meta.RoutingEntry", "", "routing"),
        "requestPath": (4, 11, True, "seldon.protos.Meta.RequestPathEntry", "", "requestPath"),
        "metrics": (5, 11, True, "seldon.protos.Metric", "", "metrics"),
    },
    "seldon.protos.Meta.TagsEntry": {
        "key": (1, 9, False, "", "", "key"),
        "value": (2, 11, False, "google.protobuf.Value", "", "value"),
    },
    "seldon.protos.Meta.RoutingEntry": {
        "key": (1, 9, False, "", "", "key"),
        "value": (2, 5, False, "", "", "value"),
    },
    "seldon.protos.Meta.RequestPathEntry": {
        "key": (1, 9, False, "", "", "key"),
        "value": (2, 9, False, "", "", "value"),
    },
    "seldon.protos.Metric": {
        "key": (1, 9, False, "", "", "key"),
        "type": (2, 14, False, "seldon.protos.Metric.MetricType", "", "type"),
        "value": (3, 2, False, "", "", "value"),
        "tags": (4, 11, True, "seldon.protos.Metric.TagsEntry", "", "tags"),
    },
    "seldon.protos.Metric.TagsEntry": {
        "key": (1, 9, False, "", "", "key"),
        "value": (2, 9, False, "", "", "value"),
    },
    "seldon.protos.Metric.MetricType": {"COUNTER": 0, "GAUGE": 1, "TIMER": 2},
    "seldon.protos.Status": {
        "code": (1, 5, False, "", "", "code"),
        "info": (2, 9, False, "", "", "info"),
        "reason": (3, 9, False, "", "", "reason"),
        "status": (4, 14, False, "seldon.protos.Status.StatusFlag", "", "status"),
    },
    "seldon.protos.Status.StatusFlag": {"SUCCESS": 0, "FAILURE": 1},
    "seldon.protos.Feedback": {
        "request": (1, 11, False, "seldon.protos.SeldonMessage", "", "request"),
        "response": (2, 11, False, "seldon.protos.SeldonMessage", "", "response"),
        "reward": (3, 2, False, "", "", "reward"),
        "truth": (4, 11, False, "seldon.protos.SeldonMessage", "", "truth"),
    },
    "seldon.protos.SeldonModelMetadataRequest": {"name": (1, 9, False, "", "", "name")},
    "seldon.protos.SeldonMessageMetadata": {
        "messagetype": (1, 9, False, "", "", "messagetype"),
        "schema": (2, 11, False, "google.protobuf.Value", "", "schema"),
        "name": (3, 9, False, "", "", "name"),
        "datatype": (4, 9, False, "", "", "datatype"),
        "shape": (5, 3, True, "", "", "shape"),
    },
    "seldon.protos.SeldonModelMetadata": {
        "name": (1, 9, False, "", "", "name"),
        "versions": (2, 9, True, "", "", "versions"),
        "platform": (3, 9, False, "", "", "platform"),
        "inputs": (4, 11, True, "seldon.protos.SeldonMessageMetadata", "", "inputs"),
        "outputs": (5, 11, True, "seldon.protos.SeldonMessageMetadata", "", "outputs"),
        "custom": (6, 11, True, "seldon.protos.SeldonModelMetadata.CustomEntry", "", "custom"),
    },
    "seldon.protos.SeldonModelMetadata.CustomEntry": {
        "key": (1, 9, False, "", "", "key"),
        "value": (2, 9, False, "", "", "value"),
    },
    "seldon.protos.Model": {
        "Predict": ("seldon.protos.SeldonMessage", "seldon.protos.SeldonMessage"),
        "SendFeedback": ("seldon.protos.Feedback", "seldon.protos.SeldonMessage"),
        "Metadata": ("google.protobuf.Empty", "seldon.protos.SeldonModelMetadata"),
    },
    "seldon.protos.Seldon": {
        "Predict": ("seldon.protos.SeldonMessage", "seldon.protos.SeldonMessage"),
        "SendFeedback": ("seldon.protos.Feedback", "seldon.protos.SeldonMessage"),
        "ModelMetadata": ("seldon.protos.SeldonModelMetadataRequest", "seldon.protos.SeldonModelMetadata"),
    },
}
