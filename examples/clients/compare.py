"""Compares what an example client printed with what the models say when they are loaded directly.

    compare.py NAME MODELS < output      exits 0 only if every answer is there and right

MODELS is the folder of the example models; its expected.json files were written without any server.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What every client asks; see java/PredictExample.java, node/predict.js, go/main.go.
HALVES = (1.0, 2.0, 5.0)
SENTENCE = "how much does it cost"
PICTURE = "7-0.png"
ROW = 0
# Four decimals are printed, and a batch may differ from a single row in the last bits of a float.
TOLERANCE = 1e-3

_LINE = re.compile(r"(?P<call>[\w ]+): (?P<answer>.+)  from (?P<instance>\S+:\d+)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?![\w.])")
_NOBODY = "nobody: NOT_FOUND: task 12345 is not configured in this gateway"


def expected(models: Path) -> dict[str, tuple[list[str], list[float]]]:
    """The words and the numbers that the answer to each call holds, in their order."""
    heads = [float(value) for value in _read(models / "mmoe")["outputs"][ROW]]
    intents = _read(models / "textcnn")[SENTENCE]
    digit, probability = _read(models / "digits")[PICTURE]
    return {
        "half_plus_two": ([], [value / 2 + 2 for value in HALVES]),
        "textcnn": (intents["output"], intents["score"]),
        "mmoe": ([], heads),
        "digits": (["probability"], [float(digit), probability]),
        "mmoe by TisPredict": ([], heads),
    }


def faults(output: str, right: dict[str, tuple[list[str], list[float]]]) -> list[str]:
    """What is wrong with a client's output; empty when nothing is."""
    found = []
    lines = output.splitlines()
    answers = {match["call"]: match["answer"] for line in lines if (match := _LINE.fullmatch(line))}
    for call, (words, numbers) in right.items():
        if call not in answers:
            found.append(f"no answer to {call}")
            continue
        answer = answers.pop(call)
        got_words = re.findall(r"[a-z_]{2,}", answer)
        got_numbers = [float(number) for number in _NUMBER.findall(answer)]
        if got_words != words or not _near(got_numbers, numbers):
            found.append(f"{call}: {answer!r} instead of {words} {numbers}")
    found += [f"an answer to {call}, which nobody asked" for call in answers]
    if _NOBODY not in lines:
        found.append(f"no line {_NOBODY!r}")
    return found


def _near(got: Sequence[float], right: Sequence[float]) -> bool:
    return len(got) == len(right) and all(
        abs(one - other) <= TOLERANCE for one, other in zip(got, right, strict=True)
    )


def _read(folder: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return whole


def main(argv: Sequence[str]) -> int:
    """Command line; returns the exit status."""
    name, models = argv
    right = expected(Path(models))
    found = faults(sys.stdin.read(), right)
    for fault in found:
        print(f"{name}: {fault}", file=sys.stderr)
    if not found:
        print(
            f"{name}: {len(right)} answers equal those of the models loaded directly, and one error is as it should be"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
