"""Train textcnn on the utterances beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from examples.tensorflow.textcnn import utterances
from examples.tensorflow.textcnn.model import OOV_ID, PAD_ID, TextCnn, vocabulary
from examples.tensorflow.textcnn.tokens import tokens

SEED = 58
BATCH = 32
LEARNING_RATE = 2e-3
DROPOUT = 0.5
CHARACTER_DROPOUT = 0.15
"""Share of characters shown as unknown while training: the unknown row then means "some character"."""


@dataclass(frozen=True, slots=True)
class Report:
    """Accuracies as shares of the first answers that are right."""

    train_accuracy: float
    held_out_accuracy: float
    train_size: int
    held_out_size: int


def train(epochs: int = 80, *, progress: bool = True) -> tuple[TextCnn, Report]:
    """Train from a fixed seed; the same epochs on the same machine give the same weights."""
    tf.keras.utils.set_random_seed(SEED)
    rows = utterances.read()
    names = utterances.intents(rows)
    learn, held_out = utterances.split(rows)
    model = TextCnn(vocabulary([tokens(row.text) for row in learn]), names)
    ids, target = _arrays(model, learn, names)
    step = _step(model)
    shuffle = np.random.default_rng(SEED)
    bar = tqdm(range(epochs), desc="textcnn", unit="epoch", disable=not progress)
    for _ in bar:
        losses = []
        order = shuffle.permutation(len(ids))
        for first in range(0, len(order), BATCH):
            pick = order[first : first + BATCH]
            noise = (shuffle.random(ids[pick].shape) < CHARACTER_DROPOUT) & (ids[pick] != PAD_ID)
            losses.append(
                float(step(tf.constant(np.where(noise, OOV_ID, ids[pick])), tf.constant(target[pick])))
            )
        bar.set_postfix(loss=f"{np.mean(losses):.3f}")
    return model, Report(
        train_accuracy=_accuracy(model, ids, target),
        held_out_accuracy=_accuracy(model, *_arrays(model, held_out, names)),
        train_size=len(learn),
        held_out_size=len(held_out),
    )


def save(model: TextCnn, path: str) -> None:
    """Write the SavedModel: signature ``prediction``, also under the default name."""
    signature = model.prediction.get_concrete_function()
    tf.saved_model.save(model, path, signatures={"prediction": signature, "serving_default": signature})


def _arrays(model: TextCnn, rows: list[utterances.Utterance], names: list[str]) -> tuple[Any, Any]:
    """Ids int64 (n, 72) and targets int64 (n,)."""
    ids = model.table.lookup(tf.constant([tokens(row.text) for row in rows])).numpy()
    return ids, np.array([names.index(row.intent) for row in rows], np.int64)


def _step(model: TextCnn) -> Any:
    optimizer = tf.keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)

    def step(ids: Any, target: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model.logits(ids, dropout=DROPOUT)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return tf.function(step, reduce_retracing=True)


def _accuracy(model: TextCnn, ids: Any, target: Any) -> float:
    return float(np.mean(model.logits(ids).numpy().argmax(axis=1) == target))
