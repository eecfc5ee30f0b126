"""Writes an image's bill of materials: what Python distributions and Debian packages are in it, as CycloneDX 1.5 JSON.

    python -IS sbom.py NAME SITE_PACKAGES [DPKG_STATUS] > sbom.cdx.json

Made of what is installed, not of what was asked for, in the image itself. The same contents give the same bytes: no
date, no random serial number. Format: https://cyclonedx.org/docs/1.5/json/; package URLs:
https://github.com/package-url/purl-spec. Standard library only.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any
from urllib.parse import quote

# Longer ones are whole licence texts, which older metadata may hold.
_NAME_LENGTH = 100


def bill(name: str, site_packages: Path, dpkg_status: Path | None) -> dict[str, Any]:
    """The document for an image called `name`; a missing status file means no Debian packages."""
    components = list(python_components(site_packages))
    if dpkg_status is not None and dpkg_status.exists():
        components += debian_components(dpkg_status.read_text(encoding="utf-8"))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "bom-ref": name}},
        "components": sorted(components, key=lambda component: str(component["purl"])),
    }


def python_components(site_packages: Path) -> Iterator[dict[str, Any]]:
    """One component for each installed distribution."""
    for file in site_packages.glob("*.dist-info/METADATA"):
        # Only the headers; the description may be long and of any encoding.
        text = file.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        metadata = Parser().parsestr(text, headersonly=True)
        # Package URLs spell names as PyPI does.
        name = re.sub(r"[-_.]+", "-", str(metadata["Name"])).lower()
        yield _component("pypi", name, str(metadata["Version"]), licences(metadata))


def licences(metadata: Message) -> list[str]:
    """What a distribution's metadata says of its licence: an SPDX expression, else classifiers, else a short name."""
    if expression := metadata["License-Expression"]:
        return [str(expression)]
    classifiers = [
        str(line).rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier", [])
        if str(line).startswith("License :: ") and not str(line).endswith("OSI Approved")
    ]
    text = str(metadata["License"] or "").strip()
    return classifiers or ([text] if text and "\n" not in text and len(text) < _NAME_LENGTH else [])


def debian_components(status: str) -> Iterator[dict[str, Any]]:
    """One component for each installed package of dpkg's status file."""
    for paragraph in status.strip().split("\n\n"):
        fields = Parser().parsestr(paragraph, headersonly=True)
        if str(fields["Status"]).endswith(" installed"):
            qualifiers = f"?arch={fields['Architecture']}"
            yield _component("deb/debian", str(fields["Package"]), str(fields["Version"]), [], qualifiers)


def _component(
    kind: str, name: str, version: str, names_of_licences: list[str], qualifiers: str = ""
) -> dict[str, Any]:
    purl = f"pkg:{kind}/{name}@{quote(version, safe='.-_~')}{qualifiers}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    if names_of_licences:
        component["licenses"] = [{"license": {"name": licence}} for licence in names_of_licences]
    return component


def text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(
        text(bill(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None))
    )
