from __future__ import annotations

from services.tf_serving.model.text_places import places


def test_fields_have_their_lines() -> None:
    text = """# models { config {
models {
  config { name: "a { b: " base: 'x'
    base: "again" }

  config: <
    name: "b"  # name: "c"
    kind: NAME policy { numbers: 1 numbers: [2, 3] }
  >
}
other {}
"""
    assert places(text, ["config"]) == {
        "models": 2,
        "models.config[0]": 3,
        "models.config[0].name": 3,
        "models.config[0].base": 3,
        "models.config[1]": 6,
        "models.config[1].name": 7,
        "models.config[1].kind": 8,
        "models.config[1].policy": 8,
        "models.config[1].policy.numbers": 8,
        "other": 11,
    }


def test_nothing_has_no_places() -> None:
    assert places(" \n# config: 1\n", ["config"]) == {}
