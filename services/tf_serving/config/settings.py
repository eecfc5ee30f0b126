"""Which batching parameters a machine gets, each with its reason. Pure.

Where a reason is TensorFlow Serving's advice, it is from tensorflow_serving/batching/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.tf_serving.execution.batching_parameters import BatchingParameters

# textcnn on one thread: 71 us a row alone, 36 at 8 rows, 31 at 64; 33 rows take 1.06 ms, 64 take 1.99 ms. So rows that
# fill a batch up cost a CPU what real ones do, and beyond 64 nothing is gained.
CPU_MAX_BATCH_SIZE = 64
GPU_MAX_BATCH_SIZE = 256
GPU_BATCH_TIMEOUT_MICROS = 1000
LEAST_ENQUEUED_BATCHES = 10
"""The scheduler's own default."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator said; None leaves it to this module.

    Attributes:
        cores: of the machine that will serve.
        gpu: whether models run on a GPU there.
        allowed_batch_sizes: ascending, the last is the maximum; () for any size.
    """

    cores: int
    gpu: bool = False
    max_batch_size: int | None = None
    allowed_batch_sizes: tuple[int, ...] | None = None
    batch_timeout_micros: int | None = None
    max_enqueued_batches: int | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter with the reason for its value; a value of () is not written."""

    name: str
    value: int | tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Batching:
    """The parameters of a server, or of a model."""

    settings: tuple[Setting, ...]

    def parameters(self) -> BatchingParameters:
        """The same as the server reads them."""
        return BatchingParameters(
            **{setting.name: setting.value for setting in self.settings}  # type: ignore[arg-type]
        )

    def without(self, name: str) -> Batching:
        """The same but for one parameter."""
        return Batching(tuple(setting for setting in self.settings if setting.name != name))

    def warm_up_rows(self) -> tuple[int, ...]:
        """Rows of the runs that there will be: all that are allowed, or, of any, the smallest and the largest."""
        parameters = self.parameters()
        return parameters.allowed_batch_sizes or tuple(dict.fromkeys((1, parameters.max_batch_size)))


def batching(wishes: Wishes) -> Batching:
    """The parameters for a machine."""
    return Batching(tuple(_settings(wishes)))


def powers_up_to(most: int) -> tuple[int, ...]:
    """1, 2, 4 ... and `most` itself."""
    sizes = [1]
    while sizes[-1] * 2 < most:
        sizes.append(sizes[-1] * 2)
    return tuple(dict.fromkeys((*sizes, most)))


def _settings(wishes: Wishes) -> Iterator[Setting]:
    told = "as it was asked for"
    yield Setting(
        "num_batch_threads",
        wishes.cores,
        f"batches that run at a time: one for each of {wishes.cores} cores. More would take turns on them, fewer "
        + ("leave the GPU without work while a batch is copied" if wishes.gpu else "leave cores idle"),
    )
    asked = wishes.max_batch_size or (wishes.allowed_batch_sizes or (None,))[-1]
    most = asked or (GPU_MAX_BATCH_SIZE if wishes.gpu else CPU_MAX_BATCH_SIZE)
    if asked:
        reason = told
    elif wishes.gpu:
        reason = (
            "most rows of a batch: a GPU gains by hundreds of rows. Lower it when a batch does not fit its memory or "
            "takes longer than callers wait"
        )
    else:
        reason = (
            "most rows of a batch: on a CPU the cost of a call is spread thin by then, and a larger batch only "
            "makes its rows wait for each other"
        )
    yield Setting("max_batch_size", most, f"{reason}. A request of more rows is refused")
    yield _allowed(wishes, most)
    if wishes.batch_timeout_micros is not None:
        yield Setting("batch_timeout_micros", wishes.batch_timeout_micros, told)
    elif wishes.gpu:
        yield Setting(
            "batch_timeout_micros",
            GPU_BATCH_TIMEOUT_MICROS,
            "a batch that is not full waits 1 ms at most: a GPU takes hardly longer for a full one, and 1 ms is a "
            "hundredth of the default timeout of a call. 0 is right where callers are few",
        )
    else:
        yield Setting(
            "batch_timeout_micros",
            0,
            "a batch never waits for company while a thread is free: rows gather by themselves while all are busy, "
            "and a lone caller is not slowed. TensorFlow Serving's advice is to try 1000 to 10000 after that",
        )
    if wishes.max_enqueued_batches is not None:
        yield Setting("max_enqueued_batches", wishes.max_enqueued_batches, told)
    else:
        batches = max(LEAST_ENQUEUED_BATCHES, wishes.cores)
        yield Setting(
            "max_enqueued_batches",
            batches,
            f"full batches of a model that may wait, {batches * most} rows: a burst is taken, and what would wait "
            "too long is refused at once (UNAVAILABLE), so that the gateway tries another instance. No less than "
            "num_batch_threads, so that none runs out of work",
        )


def _allowed(wishes: Wishes, most: int) -> Setting:
    name = "allowed_batch_sizes"
    if wishes.allowed_batch_sizes is not None:
        return Setting(
            name,
            wishes.allowed_batch_sizes,
            (
                "as it was asked for: batches are filled up to the next of these"
                if wishes.allowed_batch_sizes
                else "none, as it was asked for: a batch has any number of rows"
            ),
        )
    if wishes.gpu:
        return Setting(
            name,
            powers_up_to(most),
            "batches are filled up to the next of these: kernels are chosen and compiled once for each, while the "
            "model is warmed up, and not for each new size while callers wait. Powers of two fill up less than half",
        )
    return Setting(
        name,
        (),
        "none: a CPU takes any number of rows, and rows that fill a batch up would cost as much as real ones",
    )
