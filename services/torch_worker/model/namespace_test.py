from __future__ import annotations

import gc
import importlib
import io
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from services.torch_worker.model.namespace import Namespace


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    path = list(sys.path)
    before = set(sys.modules)
    yield
    assert sys.path == path
    assert not [
        name
        for name in set(sys.modules) - before
        if name.partition(".")[0] in ("net", "pkg") or name.startswith("model_")
    ]


def write(folder: Path, **files: str) -> Path:
    """Write modules, `a_b` for a/b.py, `a_init` for a/__init__.py."""
    for name, source in files.items():
        file = folder / f"{name.replace('_', '/')}.py".replace("init.py", "__init__.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(source))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Namespace, Namespace]]:
    """Two versions whose files differ in one word."""
    sources = {
        "net": """
            import helper
            from helper import WORD
            class Net:
                def __init__(self): self.word = WORD
                def late(self):
                    import lazy
                    from lazy import word
                    return lazy.word(), word()
            """,
        "helper": "WORD = {word!r}\n",
        "lazy": "import helper\ndef word():\n    return helper.WORD\n",
    }
    made = []
    for word in ("old", "new"):
        folder = write(tmp_path / word, **sources)
        (folder / "helper.py").write_text(f"WORD = {word!r}\n")
        made.append(Namespace(folder))
    yield made[0], made[1]
    for namespace in made:
        namespace.close()


def test_versions_have_modules_of_their_own(two: tuple[Namespace, Namespace]) -> None:
    old, new = (namespace.import_module("net").Net() for namespace in two)
    assert (old.word, new.word) == ("old", "new")
    # What is imported only now comes from the right folder too, the elder version's first.
    assert (old.late(), new.late()) == (("old", "old"), ("new", "new"))
    assert type(old) is not type(new)
    assert sys.modules[type(old).__module__].WORD == "old"


def test_classes_of_both_versions_can_be_pickled(two: tuple[Namespace, Namespace]) -> None:
    for namespace in two:
        made = namespace.import_module("net").Net()
        again = pickle.loads(pickle.dumps(made))
        assert type(again) is type(made) and again.word == made.word


def pickled(module: str, name: str) -> bytes:
    """A pickle of an empty instance of a class that this process does not have."""
    return f"c{module}\n{name}\n(tR.".encode()


def test_pickles_name_classes_bare(two: tuple[Namespace, Namespace]) -> None:
    for namespace in two:
        data = io.BytesIO(pickled("net", "Net"))
        assert namespace.pickle_module.load(data).word == namespace.path.name
        with namespace.active():
            assert pickle.loads(pickled("net", "Net")).word == namespace.path.name
    assert pickle.loads(pickled("net", "Net")).word == "new"  # nobody says whose: the newest
    assert two[0].pickle_module.load(io.BytesIO(pickle.dumps(Path("x")))) == Path("x")


def test_unpickling_and_importing_by_name_in_the_folders_code(two: tuple[Namespace, Namespace]) -> None:
    source = """
        import pickle, importlib
        def by_pickle(data): return pickle.loads(data)
        def by_other(data): return other(data)
        def by_name(): return importlib.import_module("net").Net()
        """
    for namespace in two:
        write(namespace.path, unpickler=source)
    data = pickled("net", "Net")
    for namespace in (*two, *two):
        module: Any = namespace.import_module("unpickler")
        module.other = lambda data: pickle.Unpickler(io.BytesIO(data)).load()  # as torch and joblib do
        words = [module.by_pickle(data).word, module.by_other(data).word, module.by_name().word]
        assert words == [namespace.path.name] * 3


def test_a_thread_may_belong_to_a_version(two: tuple[Namespace, Namespace]) -> None:
    words = []

    def work(namespace: Namespace) -> None:
        namespace.adopt_thread()
        words.append(importlib.import_module("net").Net().word)

    for namespace in (*two, *two):
        thread = threading.Thread(target=work, args=[namespace])
        thread.start()
        thread.join(10)
    assert words == ["old", "new", "old", "new"]


def test_packages_and_relative_imports(tmp_path: Path) -> None:
    made = []
    for number in (1, 2):
        folder = write(
            tmp_path / str(number),
            pkg_init="from .base import N\nfrom . import base as same\n",
            pkg_base=f"N = {number}\n",
            pkg_deep_init="",
            pkg_deep_leaf="from ..base import N\nimport pkg.base\nfrom pkg import base\nM = pkg.base.N + base.N\n",
            plain_part="from pkg.deep import leaf\n",
            net="import pkg.deep.leaf\nimport plain.part as p\nM = pkg.deep.leaf.M\nL = p.leaf\nfrom pkg import *\n",
        )
        made.append(Namespace(folder))
    for number, namespace in enumerate(made, 1):
        net: Any = namespace.import_module("net")
        assert (2 * number, number, 2 * number) == (net.M, net.N, net.L.M)
        assert number == namespace.import_module("pkg.deep.leaf").N
        with namespace.active():
            assert number == importlib.import_module("pkg.deep.leaf").N
            assert number == importlib.import_module("pkg").same.N
        assert namespace.import_module("pkg").base.__name__ == f"{namespace.name}.pkg.base"
    for namespace in made:
        namespace.close()


def test_what_else_needs_sys_modules_works(tmp_path: Path) -> None:
    source = """
        from __future__ import annotations
        import dataclasses, inspect, typing, enum, collections

        @dataclasses.dataclass
        class Config:
            width: int
            kind: typing.ClassVar[str] = "x"

        Point = collections.namedtuple("Point", "x y")

        class Colour(enum.Enum):
            RED = 1

        def source(): return inspect.getsource(Config)
        def hints(): return typing.get_type_hints(Config)
        """
    namespaces = [Namespace(write(tmp_path / name, net=source)) for name in "ab"]
    for namespace in namespaces:
        net: Any = namespace.import_module("net")
        assert [f.name for f in net.dataclasses.fields(net.Config)] == ["width"]
        assert net.hints()["width"] is int
        assert "class Config" in net.source()
        assert pickle.loads(pickle.dumps((net.Colour.RED, net.Point(1, 2)))) == (net.Colour.RED, (1, 2))
        importlib.reload(net)
        namespace.close()


def test_torch_compile_and_script(tmp_path: Path) -> None:
    source = """
        import torch
        from torch import nn
        import parts

        class Net(nn.Module):
            def forward(self, x):
                import late
                return parts.scale(x) + late.SHIFT
        """
    for number, namespace in enumerate(
        Namespace(
            write(
                tmp_path / str(n),
                net=source,
                parts=f"def scale(x):\n    return x * {n}\n",
                late=f"SHIFT = {n}\n",
                scripted=f"import torch\ndef f(x: torch.Tensor):\n    return x + {n}\n",
            )
        )
        for n in (1, 2)
    ):
        net: Any = namespace.import_module("net")
        with namespace.active():
            model = torch.compile(net.Net(), backend="eager")
            run: Any = model
            assert run(torch.ones(2)).tolist() == [2.0 * (number + 1)] * 2
        function: Any = namespace.import_module("scripted").f
        script: Any = torch.jit.script
        result: torch.Tensor = script(function)(torch.zeros(1))
        assert result.item() == number + 1
        namespace.close()


def test_nothing_is_left_of_a_closed_version(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        net="""
            import sys, os, logging, helper
            sys.path.insert(0, os.path.join(os.path.dirname(__file__), "src"))
            import inner
            log = logging.getLogger(__name__)
            class Net:
                def late(self):
                    from . import helper
                def late_bare(self):
                    import helper
            """,
        helper="",
        src_inner="VALUE = 1\n",
    )
    namespace = Namespace(folder)
    net = namespace.import_module("net")
    assert importlib.import_module("inner").VALUE == 1
    model = net.Net()
    references = [weakref.ref(x) for x in (namespace, net, net.helper, net.inner, type(model))]
    namespace.close()
    namespace.close()
    with pytest.raises(ImportError, match="unloaded"):
        model.late()
    with pytest.raises(ModuleNotFoundError, match="No module named 'helper'"):
        model.late_bare()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("inner")
    del namespace, net, model
    gc.collect()
    assert [r() for r in references] == [None] * 5


def test_a_folder_behind_a_link(tmp_path: Path) -> None:
    real = write(
        tmp_path / "real",
        net="import os, sys\nsys.path.append(os.path.realpath(os.path.dirname(__file__)) + '/src')\nimport inner\n",
        src_inner="",
    )
    (tmp_path / "link").symlink_to(real)
    namespace = Namespace(tmp_path / "link")
    assert namespace.import_module("net").inner.__name__ == f"{namespace.name}.inner"
    namespace.close()


def test_packages_data_and_many_threads(tmp_path: Path) -> None:
    source = """
        import importlib.resources, pkgutil
        def word():
            import slow
            from pkg import late
            return slow.WORD, late.WORD
        def data():
            found = importlib.resources.files("pkg").joinpath("data.txt").read_bytes()
            return pkgutil.get_data("pkg", "data.txt"), found
        """
    namespaces = []
    for name in ("a", "b"):
        folder = write(
            tmp_path / name,
            net=source,
            slow=f"import time\ntime.sleep(0.05)\nWORD = {name!r}\n",
            pkg_init="",
            pkg_late="import slow\nWORD = slow.WORD\n",
        )
        (folder / "pkg" / "data.txt").write_text(name)
        namespaces.append(Namespace(folder))
    words: list[tuple[str, Any]] = []

    def work(namespace: Namespace) -> None:
        words.append((namespace.path.name, namespace.import_module("net").word()))

    threads = [threading.Thread(target=work, args=[namespace]) for namespace in namespaces * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(words) == [("a", ("a", "a"))] * 8 + [("b", ("b", "b"))] * 8
    for namespace in (*namespaces, *namespaces):
        assert namespace.import_module("net").data() == (namespace.path.name.encode(),) * 2
    for namespace in namespaces:
        namespace.close()


def test_edits_within_a_second_are_seen(tmp_path: Path) -> None:
    os.utime(write(tmp_path, net="VALUE = 1\n") / "net.py", (10**9, 10**9))
    first = Namespace(tmp_path)
    assert first.import_module("net").VALUE == 1
    os.utime(write(tmp_path, net="VALUE = 2\n") / "net.py", (10**9, 10**9))
    second = Namespace(tmp_path)
    assert second.import_module("net").VALUE == 2
    assert not (tmp_path / "__pycache__").exists()
    first.close()
    second.close()


def test_names_that_are_not_the_folders(tmp_path: Path) -> None:
    write(
        tmp_path,
        json="raise AssertionError('the standard library is first, as ever')\n",
        net="import json, torch.nn.functional as F, numpy, xml.dom\nfrom torch import nn\nOK = json.dumps(1)\n",
    )
    (tmp_path / "xml").mkdir()  # a directory of data is no package
    namespace = Namespace(tmp_path)
    net: Any = namespace.import_module("net")
    assert net.OK == "1" and net.F is torch.nn.functional and net.xml.dom
    with pytest.raises(ModuleNotFoundError, match="No module named 'absent'"):
        namespace.import_module("absent")
    (tmp_path / "other.py").write_text("import pkg.absent\n")
    write(tmp_path, pkg_init="")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'pkg\.absent'"):
        namespace.import_module("other")
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        write(tmp_path, third="import not_installed\n")
        namespace.import_module("third")
    namespace.close()
