"""The README's requests, sent as it says."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from services.tf_serving.testing import Server
from services.tf_serving.testing_rest import ask, free_port

README = Path(__file__).with_name("README.md")
_EXAMPLE = re.compile(r"^    \$ (curl .*)\n    (\{.*\})$", re.MULTILINE)


def test_its_requests_are_answered_as_it_says(recipe: Callable[[str], Path], tmp_path: Path) -> None:
    examples = _EXAMPLE.findall(README.read_text(encoding="utf-8"))
    assert len(examples) == 6
    (tmp_path / "123").symlink_to(recipe("half_plus_two_cpu"))
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "half_plus_two" base_path: "{tmp_path}" '
        'model_platform: "tensorflow" version_labels { key: "stable" value: 123 } } }'
    )
    port = free_port()
    with Server("--model_config_file", str(config), "--rest_api_port", str(port)):
        for command, answer in examples:
            words = shlex.split(command)
            host, path = words[-1].removeprefix("http://").split("/", 1)
            assert host == "localhost:8501"
            body = words[words.index("-d") + 1].encode() if "-d" in words else None
            got = ask(f"127.0.0.1:{port}", "POST" if body else "GET", f"/{path}", body)[2]
            assert json.loads(got) == json.loads(answer), command
