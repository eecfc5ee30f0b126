"""A convolutional sentence classifier over characters, strings in and strings out.

Kim's TextCNN (2014): embedding, parallel convolutions over 2, 3 and 4 characters, the maximum of each
filter over the sentence, dropout, one dense layer. Plain TensorFlow: loading and saving need no Keras.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from examples.tensorflow.textcnn.tokens import EOS, PAD, SEQUENCE_LENGTH, SPACE

TOP = 3
"""Intents in an answer, the most probable first."""

PAD_ID = 0
OOV_ID = 1
FIRST_CHARACTER_ID = 2


def vocabulary(texts: list[list[str]]) -> list[str]:
    """The known characters, in order of first appearance in tokenised texts, after the two marks."""
    known = dict.fromkeys([EOS, SPACE, *(cell for text in texts for cell in text if cell != PAD)])
    return list(known)


def _table(characters: list[str]) -> Any:
    """Character to embedding row; upper case and plain spaces, as some callers send them, are aliases."""
    rows = {PAD: PAD_ID} | {c: i for i, c in enumerate(characters, start=FIRST_CHARACTER_ID)}
    rows |= {c.upper(): rows[c] for c in characters if len(c) == 1 and c.upper() not in rows}
    rows[" "] = rows[SPACE]
    initializer = tf.lookup.KeyValueTensorInitializer(
        list(rows), list(rows.values()), key_dtype=tf.string, value_dtype=tf.int64
    )
    return tf.lookup.StaticHashTable(initializer, default_value=OOV_ID)


class TextCnn(tf.Module):  # type: ignore[misc]
    """Weights and both views of the model: logits over ids for training, strings for serving."""

    def __init__(
        self, characters: list[str], intents: list[str], *, width: int = 64, filters: int = 64
    ) -> None:
        super().__init__()
        self.table = _table(characters)
        self.intents = tf.constant(intents)
        rows = FIRST_CHARACTER_ID + len(characters)
        self.embedding = tf.Variable(tf.random.normal([rows, width], stddev=0.3), name="embedding")
        self.kernels = []
        self.biases = []
        for span in (2, 3, 4):
            scale = (2.0 / (span * width)) ** 0.5  # He initialisation for the ReLU that follows
            kernel = tf.random.normal([span, width, filters], stddev=scale)
            self.kernels.append(tf.Variable(kernel, name=f"kernel{span}"))
            self.biases.append(tf.Variable(tf.zeros([filters]), name=f"bias{span}"))
        features = filters * len(self.kernels)
        self.dense = tf.Variable(
            tf.random.normal([features, len(intents)], stddev=features**-0.5), name="dense"
        )
        self.offset = tf.Variable(tf.zeros([len(intents)]), name="offset")
        self.prediction = tf.function(
            self._prediction,
            input_signature=[
                tf.TensorSpec([None, SEQUENCE_LENGTH], tf.string, name="sentence"),
                tf.TensorSpec([None], tf.string, name="label"),
            ],
        )

    def logits(self, ids: Any, dropout: float = 0.0) -> Any:
        """ids int64 (n, 72) to logits float32 (n, intents)."""
        mask = tf.cast(ids != PAD_ID, tf.float32)[:, :, tf.newaxis]
        x = tf.gather(self.embedding, ids) * mask  # padding contributes nothing, whatever its row learned
        pooled = [
            tf.reduce_max(tf.nn.relu(tf.nn.conv1d(x, kernel, stride=1, padding="VALID") + bias), axis=1)
            for kernel, bias in zip(self.kernels, self.biases, strict=True)
        ]
        features = tf.concat(pooled, axis=1)
        if dropout:
            features = tf.nn.dropout(features, rate=dropout)
        return features @ self.dense + self.offset

    def _prediction(self, sentence: Any, label: Any) -> dict[str, Any]:
        """The served signature. `label` is accepted for the callers that send one and is not used."""
        del label
        probabilities = tf.nn.softmax(self.logits(self.table.lookup(sentence)))
        score, index = tf.math.top_k(probabilities, k=TOP, sorted=True)
        return {"output": tf.gather(self.intents, index), "score": score}
