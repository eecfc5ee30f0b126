"""For tests: what `tf-serving config` writes for known models, kept in golden/ and renewed by

python -m services.tf_serving.config.testing_golden
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from services.tf_serving.config import tfrecord
from services.tf_serving.execution.batching_parameters import PER_MODEL_FILE
from services.tf_serving.flags import parse
from services.tf_serving.model import warmup
from services.tf_serving.testing import MAKERS

FOLDER = Path(__file__).with_name("golden")

NAMED = ("--base-path=/models", "--config-path=/config")

CASES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cpu": (("half_plus_two", "intents"), ("--cores=4", "--task=half_plus_two=70", "--task=intents=69")),
    "gpu": (
        ("half_plus_two", "intents"),
        (
            *("--cores=16", "--gpu", "--task=half_plus_two=70", "--name=intents=textcnn-69", "--try-warm-up"),
            "--instances=10.0.0.7:8500,tensorflow.models:8500",
            "--timeout-ms=250",
            "--label=intents=stable:7",
        ),
    ),
    "by_model": (
        ("echo", "half_plus_two", "mixed", "version_1"),
        ("--cores=2", "--policy=all", "--allowed-batch-sizes=1,8", "--max-batch-size=8"),
    ),
    "unbatched": (("half_plus_two",), ("--cores=2", "--batching=off", "--policy=7")),
}
"""By name: models of testing.MAKERS, and the command's further arguments."""


def produce(case: str, make: Callable[[str, Path], object], folder: Path) -> dict[str, str]:
    """The case's files as texts, by name.

    Args:
        make: makes the model of a name as a version's folder.
        folder: an empty one, to work in.
    """
    names, arguments = CASES[case]
    for name in names:
        make(name, folder / "models" / name / "7")
    command = ["config", "--models", str(folder / "models"), "--out", str(folder / "out"), *NAMED, *arguments]
    parsed = parse(command)
    if parsed.run(parsed) != 0:
        raise RuntimeError(f"{' '.join(command)} failed")
    texts = {path.name: path.read_text() for path in sorted((folder / "out").iterdir())}
    for path in sorted((folder / "models").rglob("*")):
        name = path.relative_to(folder / "models").as_posix().replace("/", "_")
        if path.name == warmup.FILE.name:
            texts[f"{name}.txt"] = requests_text(path.read_bytes())
        elif path.name == PER_MODEL_FILE:
            texts[name] = path.read_text()
    return texts


def requests_text(content: bytes) -> str:
    """A warm-up file for people."""
    from google.protobuf import text_format
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    logs = [PredictionLog.FromString(record) for record in tfrecord.decode(content)]
    return "".join(text_format.MessageToString(log, as_one_line=True) + "\n" for log in logs)


def main() -> int:
    """Write golden/ anew."""
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            texts = produce(case, lambda name, path: MAKERS[name](path), Path(folder))
        target = FOLDER / case
        target.mkdir(parents=True, exist_ok=True)
        for old in target.iterdir():
            old.unlink()
        for name, text in texts.items():
            (target / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
