from __future__ import annotations

from pathlib import Path

import pytest

from libs.proto.dtypes import DataType
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import saved_model
from services.tf_serving.model.signature import TensorSpec
from services.tf_serving.model.versions import ModelError
from services.tf_serving.testing import MAKERS


def official(path: Path) -> list[object]:
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    return list(SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs)


@pytest.mark.parametrize("name", MAKERS)
def test_signatures_are_those_that_tensorflow_reads(models: Path, name: str) -> None:
    from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

    path = models / name / "7"
    (expected,) = official(path)
    graph = saved_model.read(path)
    assert graph is not None
    assert graph.tags == ("serve",)
    assert set(graph.signatures) == set(expected.signature_def)  # type: ignore[attr-defined]
    for key, definition in expected.signature_def.items():  # type: ignore[attr-defined]
        signature = graph.signatures[key]
        assert signature.method_name == definition.method_name
        for ours, theirs in ((signature.inputs, definition.inputs), (signature.outputs, definition.outputs)):
            assert list(ours) == sorted(theirs)
            for alias, info in theirs.items():
                unknown = info.tensor_shape.unknown_rank
                shape = None if unknown else tuple(dim.size for dim in info.tensor_shape.dim)
                if not info.HasField("tensor_shape"):
                    shape = None
                assert ours[alias] == TensorSpec(info.name, info.dtype, shape)
    served = SignatureDefMap.FromString(graph.signature_def_map)
    assert dict(served.signature_def) == dict(expected.signature_def)  # type: ignore[attr-defined]


def test_what_cannot_be_told_from_small_models_is_read_too(tmp_path: Path) -> None:
    tf = tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel(saved_model_schema_version=1)
    message.meta_graphs.add().meta_info_def.tags.extend(["train", "serve"])
    graph = message.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    definition = graph.signature_def["s"]
    definition.inputs["r"].dtype = 101  # DT_FLOAT_REF
    definition.inputs["r"].tensor_shape.unknown_rank = True
    definition.inputs["q"].dtype = DataType.DT_QINT8
    definition.defaults["q"].CopyFrom(tf.make_tensor_proto([1.0]))
    (tmp_path / "saved_model.pb").write_bytes(message.SerializeToString())

    read = saved_model.read(tmp_path)

    assert read is not None
    signature = read.signatures["s"]
    assert signature.inputs == {
        "q": TensorSpec("", DataType.DT_QINT8, None),
        "r": TensorSpec("", DataType.DT_FLOAT, None),
    }
    assert signature.defaults == {"q": definition.defaults["q"].SerializeToString()}


def test_a_graph_for_other_purposes_is_not_served(tmp_path: Path) -> None:
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel()
    message.meta_graphs.add().meta_info_def.tags.extend(["train", "gpu"])
    (tmp_path / "saved_model.pb").write_bytes(message.SerializeToString())
    with pytest.raises(ModelError, match=r"no graph tagged \{serve\}; it has \{train,gpu\}"):
        saved_model.read(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelError, match="it has no graph at all"):
        saved_model.read(tmp_path)


def test_a_file_cut_off_anywhere_is_refused_by_name(models: Path, tmp_path: Path) -> None:
    whole = (models / "half_plus_two" / "7" / "saved_model.pb").read_bytes()
    for part in (10, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "saved_model.pb").write_bytes(whole[:part])
        with pytest.raises(ModelError, match="saved_model.pb is corrupt, or not a SavedModel"):
            saved_model.read(tmp_path)


def test_the_text_form_is_left_to_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pbtxt").touch()
    assert saved_model.read(tmp_path) is None
