"""What a part writes down, as it goes: a part that is killed keeps the rows that it had."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from cxrpipe.scoring.faults import Fault, guarded
from gpu_parts.catalogue import FAILED

Cell = str | int | float | None


class Sheet:
    """Rows of named tables, facts of the machine, and what was not measured; one JSON line each.

    ends_at  when the part has to be done, in seconds since 1970
    """

    def __init__(self, file: TextIO, ends_at: float) -> None:
        self._file, self._ends_at = file, ends_at

    @property
    def left_s(self) -> float:
        return self._ends_at - time.time()

    def fact(self, name: str, value: Cell) -> None:
        self._write({"fact": name, "value": value})

    def row(self, table: str, **cells: Cell) -> None:
        """A row of a table; underscores in the names of its columns become spaces."""
        self._write({"table": table, "row": {name.replace("_", " "): value for name, value in cells.items()}})

    def missing(self, what: str, reason: str) -> None:
        self._write({"missing": what, "reason": " ".join(reason.split())[:300]})

    def measure(self, what: str, work: Callable[[], Any], needs_s: float = 0.0) -> bool:
        """Do the work, and tell whether it succeeded. What fails or has no time left is listed, and costs no other row.

        needs_s  seconds that the work takes, roughly
        """
        if self.left_s < needs_s:
            self.missing(what, f"no time: {max(self.left_s, 0):.0f} s were left, and it takes about {needs_s:.0f} s")
            return False

        def done() -> bool:
            work()
            return True

        def failed(fault: Fault) -> bool:
            print(f"{what}:\n{fault.traceback}", file=sys.stderr, flush=True)
            self.missing(what, f"{FAILED} {_message(fault)}")
            return False

        return guarded(done, failed)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _message(fault: Fault) -> str:
    """Kind and place of the exception, and the line that states its message."""
    kind = fault.kind.partition(" ")[0]
    stated = [line.strip() for line in fault.traceback.splitlines() if f"{kind}:" in line]
    return f"{fault.kind} ({stated[-1]})" if stated else fault.kind
