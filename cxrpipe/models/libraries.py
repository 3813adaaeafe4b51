"""torchvision, segmentation_models_pytorch and timm, imported without torch's compiler, which takes 1.6 s to import.

Scoring a few images never compiles. torchvision imports the compiler because one of its operators (`ops/roi_align`)
calls a function of it. timm imports the compiler for a decorator of one network (`naflexvit`).
"""

import contextlib
import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from cxrpipe.errors import ConfigError

_COMPILER, _QUESTIONS = "torch._dynamo", "torch._dynamo.utils"


class _Later(ModuleType):
    """Stands in for a module of the compiler. A call of one of its functions imports the real module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{self.__name__} is not imported yet and has no {name!r}")
        return functools.partial(_call, self.__name__, name)


def _call(module: str, name: str, *arguments: Any, **named: Any) -> Any:
    _forget()
    return getattr(importlib.import_module(module), name)(*arguments, **named)


def _forget() -> None:
    for name in (_COMPILER, _QUESTIONS):
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Imports in this context get a compiler that is imported at the first call of one of its functions."""
    if _COMPILER in sys.modules:
        yield
        return
    package, questions = _Later(_COMPILER), _Later(_QUESTIONS)
    package.__path__ = [f"{folder}/_dynamo" for folder in torch.__path__]
    package.disable = _left_as_it_is  # type: ignore[attr-defined]
    sys.modules |= {_COMPILER: package, _QUESTIONS: questions}
    try:
        yield
    finally:
        _forget()


def _left_as_it_is(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """Return the function undecorated.

    Only timm's NaFlexViT uses this decorator. --compile may then try to compile the iterators of that network, and goes
    on without.
    """
    return function


with _without_compiler():
    import torchvision
    from torchvision.models import feature_extraction

__all__ = ["feature_extraction", "smp", "timm", "torchvision", "torchxrayvision"]


def smp() -> Any:
    """Import segmentation_models_pytorch. The import takes half a second more: only segmentation waits for it."""
    with _without_compiler():
        import segmentation_models_pytorch
    return segmentation_models_pytorch


def timm() -> Any:
    """Import timm. The import takes 0.4 s more: only networks of timm wait for it."""
    with _without_compiler():
        import timm
    return timm


def torchxrayvision() -> Any:
    """Import torchxrayvision, an extra, without its change of everybody's warning filters."""
    with _without_compiler(), warnings.catch_warnings():
        try:
            import torchxrayvision.baseline_models.chestx_det
        except ImportError as error:
            raise ConfigError(f"torchxrayvision cannot be imported ({error}); pip install 'cxrpipe[xrv]'") from None
    return torchxrayvision
