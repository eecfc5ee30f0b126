"""What a rollout costs the callers: latency while versions are swapped, over latency before.

    PYTHONPATH=. python -m services.tf_serving.rollout_bench --saved-model DIR

Calls come at a fixed rate, whatever the answers take, from a process of its own; a call's latency counts from when it
was due. Prints p50, p99 and the worst, in ms, before and during the swaps, and p99 during over p99 before.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import shutil
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing import Server, predict_request, save_constant
from services.tf_serving.testing_client import Client

PREDICT = "/tensorflow.serving.PredictionService/Predict"


async def _call_at_rate(address: str, body: bytes, rate: float, line: Connection) -> None:
    """Calls until told to stop; sends (moment due, latency or None for a failure) of each, in seconds."""
    done: list[tuple[float, float | None]] = []
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary(PREDICT)

        async def one(due: float) -> None:
            try:
                await method(body, timeout=10)
                done.append((due, time.monotonic() - due))
            except grpc.RpcError:
                done.append((due, None))

        tasks = []
        due = time.monotonic()
        while not line.poll():
            due += 1 / rate
            await asyncio.sleep(max(due - time.monotonic(), 0))
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
    line.send(done)


def _caller(address: str, body: bytes, rate: float, line: Connection) -> None:
    asyncio.run(_call_at_rate(address, body, rate, line))


def main() -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--saved-model", type=Path, help="what every version is a copy of; default: a tiny model"
    )
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--rate", type=float, default=200.0, help="calls per second")
    parser.add_argument("--before-s", type=float, default=15.0)
    given = parser.parse_args()
    tensorflow()
    with tempfile.TemporaryDirectory() as directory:
        base, ready = Path(directory, "m"), Path(directory, "ready")
        base.mkdir()
        ready.mkdir()
        for version in range(1, given.versions + 2):
            if given.saved_model:
                shutil.copytree(given.saved_model, ready / str(version))
            else:
                save_constant(ready / str(version), version)
        (ready / "1").rename(base / "1")
        arguments = (f"--model_base_path={base}", "--model_name=m", "--file_system_poll_wait_seconds=0.2")
        with Server(*arguments, "--log-level=WARNING") as server:
            _measure(server.address, base, ready, given)
    return 0


def _measure(address: str, base: Path, ready: Path, given: argparse.Namespace) -> None:
    body = _request(address).SerializeToString()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_caller, args=(address, body, given.rate, theirs)
    )
    process.start()
    with grpc.insecure_channel(address) as channel:
        client = Client(channel)
        time.sleep(5)  # warm
        begin = time.monotonic()
        time.sleep(given.before_s)
        swaps = time.monotonic()
        for version in range(2, given.versions + 2):
            (ready / str(version)).rename(base / str(version))
            while client.states("m").get(version) != 30:
                time.sleep(0.05)
        end = time.monotonic()
    ours.send("stop")
    done: list[tuple[float, float | None]] = ours.recv()
    process.join()
    p99 = {}
    for name, first, last in (("before", begin, swaps), ("during", swaps, end)):
        calls = [latency for due, latency in done if first <= due < last]
        good = np.array([latency for latency in calls if latency is not None]) * 1e3
        p50, p99[name], worst = np.percentile(good, [50, 99, 100])
        print(
            f"{name}: {len(calls)} calls, {len(calls) - len(good)} failed, {last - first:.1f} s, "
            f"p50 {p50:.2f} p99 {p99[name]:.2f} worst {worst:.2f} ms"
        )
    print(f"p99 during / before: {p99['during'] / p99['before']:.2f}")


def _request(address: str) -> Any:
    """A request of zeros for the first signature that has inputs."""
    from tensorflow_serving.apis import get_model_metadata_pb2 as pb
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    tf = tensorflow()
    wanted = pb.GetModelMetadataRequest(metadata_field=["signature_def"])
    wanted.model_spec.name = "m"
    with grpc.insecure_channel(address) as channel:
        metadata = PredictionServiceStub(channel).GetModelMetadata(wanted, timeout=20).metadata
    signatures = pb.SignatureDefMap()
    metadata["signature_def"].Unpack(signatures)
    for name, signature in sorted(signatures.signature_def.items()):
        if signature.inputs:
            inputs = {
                key: tf.make_tensor_proto(
                    b"" if info.dtype == tf.string.as_datatype_enum else 0,
                    dtype=info.dtype,
                    shape=[max(dim.size, 1) for dim in info.tensor_shape.dim],
                )
                for key, info in signature.inputs.items()
            }
            return predict_request("m", inputs, signature=name)
    raise SystemExit("the model has no signature with inputs")


if __name__ == "__main__":
    sys.exit(main())
