"""What the textcnn model answers when the SavedModel is loaded directly, without a server: expected.json."""

from __future__ import annotations

import json
from pathlib import Path

from examples.tensorflow.textcnn.tokens import SEQUENCE_LENGTH, UNKNOWN_LABEL, cells
from services.tf_serving.execution.runtime import tensorflow

UTTERANCES = (
    "你好，在吗？",
    "hello there",
    "我想租一套两室一厅的房子",
    "is the flat near the station still available",
    "附近有招聘司机的吗",
    "I am looking for a part time job",
    "我的车想卖掉，能估个价吗",
    "how much does it cost",
    "谢谢你的帮助",
    "bye, see you tomorrow",
)


def write_textcnn(base: Path, version: str) -> None:
    """Writes {utterance: {"output": three intents, "score": their probabilities}} beside the version folders."""
    tf = tensorflow()
    predict = tf.saved_model.load(str(base / version)).signatures["prediction"]
    answers = {}
    for text in UTTERANCES:
        sentence = tf.constant([cells([text])], shape=(1, SEQUENCE_LENGTH))
        said = predict(sentence=sentence, label=tf.constant([UNKNOWN_LABEL]))
        answers[text] = {
            "output": [value.decode() for value in said["output"].numpy()[0]],
            "score": [float(value) for value in said["score"].numpy()[0]],
        }
    (base / "expected.json").write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n")
