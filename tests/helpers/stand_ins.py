"""Programs that stand in for `kubectl`, `ray` and others on PATH: each notes its words and runs a few lines."""

import os
from collections.abc import Mapping
from pathlib import Path


class StandIns:
    """A folder of stand-ins, to be put before everything else on PATH."""

    def __init__(self, folder: Path) -> None:
        self._bin, self._calls = folder / "bin", folder / "calls"
        self._bin.mkdir(parents=True)
        self._calls.touch()

    def add(self, name: str, script: str = "") -> None:
        """A program that notes its words and then runs these lines of shell."""
        program = self._bin / name
        note = f"{{ printf '%s\\0' {name} \"$@\"; printf '\\036'; }} >> '{self._calls}'"
        program.write_text(f"#!/bin/bash\n{note}\n{script}\n")
        program.chmod(0o755)

    def calls(self) -> list[list[str]]:
        """The words of every call so far, the name of the program first."""
        return [call.split("\0")[:-1] for call in self._calls.read_text().split("\036")[:-1]]

    def env(self) -> Mapping[str, str]:
        return {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}"}
