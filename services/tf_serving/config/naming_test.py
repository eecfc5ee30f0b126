from __future__ import annotations

import pytest

from services.tf_serving.config.naming import Named, NamingError, named, task_of


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("textcnn-69", 69),
        ("a-1-2", 2),
        ("textcnn", None),
        ("textcnn-", None),
        ("textcnn69", None),
        ("m-007", 7),
        ("m-99999999999", None),
        ("m-٣", None),
    ],
)
def test_a_task_is_what_a_name_ends_in(name: str, task: int | None) -> None:
    assert task_of(name) == task


def test_names_and_tasks_are_given_by_folder_key_or_name() -> None:
    folders = {"textcnn-69": "textcnn-69", "team/half": "half", "plain": "plain", "b": "b"}
    assert named(folders, {"team/half": "hpt", "b": "c-9"}, {"hpt": 70, "c-9": 9}) == {
        "textcnn-69": Named("textcnn-69", 69),
        "team/half": Named("hpt-70", 70),
        "plain": Named("plain", None),
        "b": Named("c-9", 9),
    }
    assert named({"m-1": "m-1"}, {}, {"m-1": 2}) == {"m-1": Named("m-1-2", 2)}


@pytest.mark.parametrize(
    ("folders", "names", "tasks", "complaint"),
    [
        ({"a/m": "m", "b/m": "m"}, {}, {}, "a/m and b/m are both called m: give one --name b/m=OTHER"),
        ({"a-7": "a-7", "b": "b"}, {}, {"b": 7}, "a-7 and b are both task 7: give one another by --task b="),
        ({"a": "a"}, {"x": "y"}, {}, "'x' is no model here; there are a"),
        ({"a": "a"}, {}, {"x": 1}, "'x' is no model here"),
    ],
)
def test_what_cannot_be_says_what_to_do(
    folders: dict[str, str], names: dict[str, str], tasks: dict[str, int], complaint: str
) -> None:
    with pytest.raises(NamingError, match=complaint):
        named(folders, names, tasks)
