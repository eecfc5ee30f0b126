"""The modules of one version's folder, apart from those of other versions that have files of the same names.

Two versions of a model live in one process while one takes over from the other. Each has its net.py and processor.py,
and imports them as `net` and `processor`. Here every version is a package of a name of its own, `model_7`, and its
modules are known to Python as `model_7.net`, so whatever looks a module up by a class's `__module__` (pickle,
dataclasses, inspect, torch.compile) finds the right one, of every version, at any time. What the folder's code
imports by a bare name goes to its own version:

- import statements, also those that run later: the modules are executed with builtins of their own, whose `__import__`
  looks in the folder first;
- unpickling: `pickle_module`, for torch.load;
- importlib.import_module, and unpickling by other libraries: a finder asks whose code is calling, by the call stack,
  then by the thread, and takes the newest version if neither tells. What then stands in sys.modules under the bare name
  belongs to no version: it asks again at each use.

The folder's code is always compiled from its source, never read from __pycache__, whose files are told from stale ones
by a time in whole seconds and the size.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import linecache
import logging
import pickle
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

# What the process had imported when the worker came up: the standard library's and torch's modules. A folder that has
# a file of such a name never was able to replace it.
_TAKEN = frozenset(name.partition(".")[0] for name in sys.modules)

# What is installed for a folder lies in it here, and belongs to the process; see `requirements`.
PACKAGES = ".packages"

_serial = itertools.count(1)
_live: dict[str, Namespace] = {}
_thread = threading.local()


class ScriptClassError(Exception):
    """A pickle refers to a class of the script that wrote it, `__main__`, by this name."""


class Namespace:
    """A folder's modules.

    Attributes:
        path: the folder.
        name: of the package that its modules are in, `model_7`; no other namespace of the process ever has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = f"model_{next(_serial)}"
        self._finders: dict[str, FileFinder] = {}
        # Names that were looked for in the folder, are not there, and were found elsewhere.
        self._foreign: set[str] = set()
        self._builtins = {**vars(builtins), "__import__": self._import}
        # The folder's code may know it by a link or by where that leads to, as volumes of Kubernetes are.
        self._inside = (f"{path}/", f"{path.resolve()}/")
        self._closed = False
        self._root = ModuleType(self.name)
        self._root.__spec__ = ModuleSpec(self.name, None, is_package=True)
        self._root.__path__ = [str(path)]
        sys.modules[self.name] = self._root
        _live[self.name] = self
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)

    def import_module(self, name: str) -> ModuleType:
        """The folder's module of a bare name, such as `net` or `layers.attention`.

        Raises:
            ModuleNotFoundError: the folder has no such module, or that needs one that there is not.
            Exception: whatever its code raises.
        """
        try:
            return importlib.import_module(f"{self.name}.{name}")
        except ModuleNotFoundError as error:
            raise self._bare_error(error) from error

    def owns(self, name: str) -> bool:
        """Whether a bare name, perhaps with dots, is one of the folder's modules by its first part."""
        top = name.partition(".")[0]
        if f"{self.name}.{top}" in sys.modules:
            return True
        if top in self._foreign or top in _TAKEN or self._closed:
            return False
        return self.find(f"{self.name}.{top}", None) is not None

    @contextmanager
    def active(self) -> Iterator[None]:
        """For the time being, bare names that nothing else tells apart are this version's on the calling thread."""
        former = getattr(_thread, "namespace", None)
        _thread.namespace = self
        try:
            yield
        finally:
            _thread.namespace = former

    def adopt_thread(self) -> None:
        """As `active`, for a thread that works for this version alone till it ends."""
        _thread.namespace = self

    @property
    def pickle_module(self) -> ModuleType:
        """The module `pickle`, but that it finds classes in the folder; for torch.load."""
        namespace = self

        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if module == "__main__":  # here that is the worker, which must not lend its own
                    raise ScriptClassError(name)
                if not namespace.owns(module):
                    return super().find_class(module, name)
                found: Any = namespace.import_module(module)
                for part in name.split("."):
                    found = getattr(found, part)
                return found

        def load(file: Any, **options: Any) -> Any:
            return Unpickler(file, **options).load()

        own = ModuleType("pickle")
        vars(own).update(vars(pickle))
        vars(own).update(Unpickler=Unpickler, load=load)
        return own

    def close(self) -> None:
        """Forget the modules, so that they and what they hold can be collected once nobody uses them.

        Code of theirs that still runs can import nothing of the folder any more.
        """
        if self._closed:
            return
        self._closed = True
        del _live[self.name]
        inside = f"{self.name}."
        gone = [name for name in sys.modules if name == self.name or name.startswith(inside)]
        files = {getattr(sys.modules.pop(name), "__file__", None) for name in gone}
        for file in files - {None}:
            linecache.cache.pop(str(file), None)
        loggers = logging.Logger.manager.loggerDict
        for name in [name for name in loggers if name.startswith(inside)]:
            del loggers[name]
        sys.path[:] = [entry for entry in sys.path if not self._holds(entry)]
        for entry in [entry for entry in sys.path_importer_cache if self._holds(entry)]:
            del sys.path_importer_cache[entry]
        bare = [name for name, module in sys.modules.items() if type(module) is _Bare]
        for name in bare:
            if not any(namespace.owns(name) for namespace in list(_live.values())):
                del sys.modules[name]
        if getattr(_thread, "namespace", None) is self:
            _thread.namespace = None

    def find(self, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """The spec of a module by its full name, `model_7.net`, in a package's path or, without one, in the folder."""
        portions: list[str] = []
        for entry in self._roots() if path is None else path:
            spec = self._finder(entry).find_spec(fullname)
            if spec is not None and spec.loader is not None:
                return spec
            if spec is not None:
                portions += spec.submodule_search_locations or ()
        if not portions:
            return None
        # A plain directory, such as data/, is a package only if there is no module of its name anywhere.
        bare = fullname.removeprefix(f"{self.name}.")
        if path is None and PathFinder.find_spec(bare) is not None:
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = portions
        return spec

    def _roots(self) -> list[str]:
        """The folder, and what its code has added to sys.path within it."""
        return [str(self.path), *(entry for entry in sys.path if self._holds(entry))]

    def _holds(self, entry: object) -> bool:
        if not isinstance(entry, str) or entry.endswith(f"/{PACKAGES}"):
            return False
        return (entry + "/").startswith(self._inside)

    def _finder(self, entry: str) -> FileFinder:
        finder = self._finders.get(entry)
        if finder is None:

            def source(fullname: str, path: str) -> Loader:
                return _Source(fullname, path, self._builtins)

            def sourceless(fullname: str, path: str) -> Loader:
                return _Sourceless(fullname, path, self._builtins)

            finder = self._finders[entry] = FileFinder(
                entry,
                (ExtensionFileLoader, EXTENSION_SUFFIXES),
                (source, SOURCE_SUFFIXES),  # type: ignore[arg-type]
                (sourceless, BYTECODE_SUFFIXES),  # type: ignore[arg-type]
            )
        return finder

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` of the folder's code."""
        if level > 0 and self._closed:
            raise ImportError("this version of the model was unloaded")
        if level > 0 or not self.owns(name):
            module = builtins.__import__(name, globals, locals, fromlist or (), level)
            if level == 0:
                self._foreign.add(name.partition(".")[0])
            return module
        try:
            module = builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist or (), 0)
        except ModuleNotFoundError as error:
            raise self._bare_error(error) from error
        if fromlist:
            return module
        if isinstance(fromlist, list):
            # So calls C code that unpickles for the folder's code (PyImport_Import), and then takes the module from
            # sys.modules.
            _finder.put(name)
        return sys.modules[f"{self.name}.{name.partition('.')[0]}"]

    def _bare_error(self, error: ModuleNotFoundError) -> ModuleNotFoundError:
        inside = f"{self.name}."
        name = (error.name or "").removeprefix(inside)
        bare = ModuleNotFoundError(str(error).replace(inside, ""), name=name, path=error.path)
        return bare.with_traceback(error.__traceback__)


def current() -> Namespace | None:
    """Whose code is running: by the call stack, then by the thread, else the newest; None when there is none at all."""
    frame = sys._getframe(1)
    while frame is not None:
        namespace = _live.get(str(frame.f_globals.get("__name__")).partition(".")[0])
        if namespace is not None:
            return namespace
        frame = frame.f_back  # type: ignore[assignment]
    of_thread: Namespace | None = getattr(_thread, "namespace", None)
    if of_thread is not None and not of_thread._closed:
        return of_thread
    return next(reversed(list(_live.values())), None)


# Both execute a module with its namespace's builtins, of which Python makes the imports of its functions too.


class _Source(SourceFileLoader):
    def __init__(self, fullname: str, path: str, own_builtins: dict[str, Any]) -> None:
        super().__init__(fullname, path)
        self._builtins = own_builtins

    def get_code(self, fullname: str) -> CodeType:
        linecache.cache.pop(self.path, None)
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._builtins
        super().exec_module(module)


class _Sourceless(SourcelessFileLoader):
    def __init__(self, fullname: str, path: str, own_builtins: dict[str, Any]) -> None:
        super().__init__(fullname, path)
        self._builtins = own_builtins

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._builtins
        super().exec_module(module)


class _Bare(ModuleType):
    """What stands in sys.modules under a bare name: the module of that name of the version that asks."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__spec__", "__loader__", "__package__", "__doc__"):  # which every module has of its own
            return getattr(_resolve(self.__name__), name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(_resolve(self.__name__), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
        elif type(value) is not _Bare:  # importlib would put a submodule's stand-in into the package itself
            setattr(_resolve(self.__name__), name, value)

    def __dir__(self) -> list[str]:
        return dir(_resolve(self.__name__))


def _resolve(name: str) -> ModuleType:
    namespace = current()
    if namespace is None or not namespace.owns(name):
        raise AttributeError(f"no model folder that is loaded has a module {name!r}")
    return namespace.import_module(name)


class _BareLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Bare(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder(MetaPathFinder):
    """Finds the modules of all namespaces by their full names, and those of the current one by their bare names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, rest = fullname.partition(".")
        namespace = _live.get(top)
        if namespace is not None:
            return namespace.find(fullname, path if "." in rest else None)
        if top in _TAKEN or (rest and type(sys.modules.get(top)) is not _Bare):
            return None
        namespace = current()
        if namespace is None or not namespace.owns(top):
            return None
        try:
            namespace.import_module(fullname)
        except ModuleNotFoundError as error:
            if error.name == fullname:
                return None
            raise
        return ModuleSpec(fullname, _BareLoader())

    def put(self, name: str) -> None:
        """See that sys.modules has something under a bare name that a namespace owns."""
        if name not in sys.modules:
            importlib.import_module(name)


_finder = _Finder()
