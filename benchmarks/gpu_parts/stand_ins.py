"""Lets the package be imported where some of its dependencies are missing, as on a lent card.

cxrpipe.models imports pydicom, pyarrow and boto3 through the names of intensities and through storage. Networks use
none of them. While the package is imported, whatever is missing is stood in for by classes that can be named, called
and inherited from. Afterwards a call of one of them raises ModuleNotFoundError: no figure can rest on a stand-in.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

STOOD_IN = (
    *("pydicom", "pyarrow", "boto3", "botocore", "urllib3", "indexed_gzip", "rich", "jsonargparse", "docstring_parser"),
)


class _Type(type):
    """The type of stand-ins. An attribute of a stand-in, and what it returns, is a stand-in too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(f"{cls.__qualname__}.{name}")

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        if not _importing:
            raise ModuleNotFoundError(f"{cls.__qualname__} is used here and not installed on this machine")
        return _stand_in(f"{cls.__qualname__}()")

    def __getitem__(cls, _: Any) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())


_importing = False


def _stand_in(name: str) -> Any:
    """A class of this name. It is an exception, so that `except` may name it."""
    return _Type(name, (Exception,), {})


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module of a missing package; it is asked last."""

    def __init__(self) -> None:
        self._missing = {package for package in STOOD_IN if importlib.util.find_spec(package) is None}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in self._missing:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextlib.contextmanager
def for_missing_packages() -> Iterator[None]:
    """Imports in this block find stand-ins for missing packages."""
    global _importing
    import torch  # noqa: F401  # libraries that try whether a package is there must not find a stand-in
    import torchvision  # noqa: F401

    finder = _Finder()
    sys.meta_path.append(finder)
    _importing = True
    try:
        yield
    finally:
        _importing = False
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Module)]:
            del sys.modules[name]
