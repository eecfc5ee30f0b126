from __future__ import annotations

import pytest
from google.protobuf import text_format

from libs.proto.messages import BatchingParameters as Message
from services.tf_serving.config.render import batching_config
from services.tf_serving.config.settings import Wishes, batching, powers_up_to
from services.tf_serving.execution import batching_parameters
from services.tf_serving.execution.batching_parameters import BatchingParameters

WISHES = [
    Wishes(1),
    Wishes(4),
    Wishes(64, gpu=True),
    Wishes(4, max_batch_size=20, gpu=True),
    Wishes(4, allowed_batch_sizes=(1, 3, 9)),
    Wishes(4, gpu=True, allowed_batch_sizes=()),
    Wishes(4, batch_timeout_micros=5000, max_enqueued_batches=1),
]


@pytest.mark.parametrize("wishes", WISHES, ids=str)
def test_what_is_written_is_read_as_it_was_meant_by_both_parsers(wishes: Wishes) -> None:
    made = batching(wishes)
    text = batching_config(made)
    parameters = batching_parameters.parse(text)
    assert parameters == made.parameters()
    message = text_format.Parse(text, Message())
    for name in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"):
        assert getattr(message, name).value == getattr(parameters, name)
    assert tuple(message.allowed_batch_sizes) == parameters.allowed_batch_sizes
    assert text_format.Parse(text_format.MessageToString(message), Message()) == message
    for setting in made.settings:
        assert len(setting.reason) > 10


def test_a_gpu_gets_large_batches_of_few_sizes_and_a_cpu_any_size() -> None:
    cpu, gpu = batching(Wishes(4)).parameters(), batching(Wishes(4, gpu=True)).parameters()
    assert (cpu.num_batch_threads, cpu.max_batch_size, cpu.allowed_batch_sizes) == (4, 64, ())
    assert (gpu.max_batch_size, gpu.allowed_batch_sizes[-1], gpu.batch_timeout_micros) == (256, 256, 1000)
    assert cpu.max_enqueued_batches == 10
    assert batching(Wishes(32)).parameters().max_enqueued_batches == 32


def test_what_was_asked_for_is_so() -> None:
    asked = batching(Wishes(2, True, None, (2, 6), 7, 3)).parameters()
    assert asked == BatchingParameters(6, 7, 3, 2, allowed_batch_sizes=(2, 6))


def test_warm_up_is_of_every_size_that_runs_will_have() -> None:
    assert batching(Wishes(4)).warm_up_rows() == (1, 64)
    assert batching(Wishes(4, max_batch_size=1)).warm_up_rows() == (1,)
    assert batching(Wishes(4, gpu=True, max_batch_size=6)).warm_up_rows() == (1, 2, 4, 6)


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9))]
)
def test_powers_end_in_the_maximum(most: int, sizes: tuple[int, ...]) -> None:
    assert powers_up_to(most) == sizes
