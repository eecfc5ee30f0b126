from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.images import sbom

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: GNU C Library
 with more lines

Package: removed
Status: deinstall ok config-files
Architecture: all
Version: 1:1.0
"""


def install(folder: Path, name: str, version: str, *more: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *more]
    (info / "METADATA").write_text("\n".join(lines) + "\n\nA description.\nLicense: not this one\n")


def test_what_is_installed_is_named(tmp_path: Path) -> None:
    install(tmp_path, "Typing_Extensions", "4.16.0", "License-Expression: PSF-2.0")
    install(tmp_path, "torch", "2.13.0+cpu")
    status = tmp_path / "status"
    status.write_text(STATUS)
    document = sbom.bill("worker", tmp_path, status)
    found = {component["purl"]: component for component in document["components"]}
    assert list(found) == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64",
        "pkg:pypi/torch@2.13.0%2Bcpu",
        "pkg:pypi/typing-extensions@4.16.0",
    ]
    typing_extensions = found["pkg:pypi/typing-extensions@4.16.0"]
    assert typing_extensions["licenses"] == [{"license": {"name": "PSF-2.0"}}]
    assert "licenses" not in found["pkg:pypi/torch@2.13.0%2Bcpu"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["License: BSD-3-Clause"], ["BSD-3-Clause"]),
        (["License: MIT", "Classifier: License :: OSI Approved :: MIT License"], ["MIT License"]),
        (["Classifier: License :: OSI Approved"], []),
        (["License: " + "all of a text " * 20], []),
        ([], []),
    ],
)
def test_licences(tmp_path: Path, lines: list[str], expected: list[str]) -> None:
    install(tmp_path, "some", "1.0", *lines)
    (component,) = sbom.python_components(tmp_path)
    assert [entry["license"]["name"] for entry in component.get("licenses", [])] == expected


def test_as_the_image_is_made_with_it(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        install(tmp_path, name, "1.0")
    command = [sys.executable, "-IS", sbom.__file__, "worker", str(tmp_path), str(tmp_path / "no status")]
    first, second = (subprocess.check_output(command, timeout=60) for _ in range(2))
    assert first == second
    document = json.loads(first)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert [component["name"] for component in document["components"]] == ["a", "b", "c"]
