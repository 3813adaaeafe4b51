"""Starts a function of a part in a process that torch spawned, where stand-ins have to be put up again."""

import importlib
from typing import Any

from gpu_parts import stand_ins


def call(rank: int, module: str, function: str, arguments: tuple[Any, ...]) -> None:
    """Call `module.function(rank, *arguments)`. Arguments are plain values: the package is not imported yet."""
    with stand_ins.for_missing_packages():
        imported = importlib.import_module(module)
    getattr(imported, function)(rank, *arguments)
