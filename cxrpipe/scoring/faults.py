"""Unforeseen exceptions: the one place of the package that catches them, so that each costs one study.

`guarded` stands around the preparation of a study, around the networks, and around the finishing of a study. An
exception that it catches is a bug, of ours or of a library. The study that met the bug becomes a row `internal_error`.
A bug that every study meets still stops the run: see `cxrpipe.runs.watch`.
"""

import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from cxrpipe.errors import ConfigError, LockError, RunError, StoreError, printable
from cxrpipe.images.answers import DecoderError

Result = TypeVar("Result")
Otherwise = TypeVar("Otherwise")

STOPPING = (StoreError, RunError, LockError, ConfigError)
"""Errors that stop a run: none of them is the fault of one study."""
_HEAD, _TAIL = 2_000, 6_000
"""Characters of a traceback that are kept: an endless recursion has more."""
_PACKAGE = f"{Path(__file__).parents[1]}/"
"""The folder of this package. Its name alone tells nothing, because a clone may have the same."""
_PASSED_ON = ("cxrpipe/scoring/faults.py", "cxrpipe/images/isolation.py", "cxrpipe/images/decoder.py")
"""Files that every traceback passes through, and that are rarely to blame."""
_CODE = re.compile(r'^\s*File "([^"]+\.py)", line (\d+), in ([\w<>]+)$', re.MULTILINE)


class Fault(NamedTuple):
    """An unforeseen exception as text, which travels between processes and machines."""

    kind: str
    """Type and place, never a message: `KeyError at cxrpipe/images.py:88`. Faults of one kind are one bug."""
    code: str
    """The lines of code that led there, without a message: safe to log for a study whose id is a pseudonym."""
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> "Fault":
        if isinstance(error, DecoderError):  # its traceback here ends where the parent read the answer
            kind, text = error.kind, "\n".join(error.__notes__)
        else:
            kind, text = type(error).__name__, "".join(traceback.format_exception(error))
        places = [f"{_short(path)}:{line}" for path, line, _ in _CODE.findall(text)]
        ours = [place for place in places if place.startswith("cxrpipe/") and not place.startswith(_PASSED_ON)]
        nearest = (ours or places or ["an unknown place"])[-1]
        return cls(kind=f"{kind} at {nearest}", code="\n".join(_code(text)), traceback=printable(_cut(text.rstrip())))

    def text(self, private: bool) -> str:
        """Text for the log. `private` leaves out the messages of exceptions, which may hold a path or a patient."""
        return self.code if private else self.traceback


def guarded(work: Callable[[], Result], otherwise: Callable[[Fault], Otherwise]) -> Result | Otherwise:
    """The result of `work`, or the result of `otherwise` for an unforeseen exception.

    `otherwise` is called after the exception is freed, and with it the arrays and tensors that its frames held.
    """
    try:
        return work()
    except STOPPING:
        raise
    except Exception as error:  # noqa: BLE001  # the only place: no single study may end a run
        fault = Fault.of(error)
    return otherwise(fault)


def _code(text: str) -> Iterator[str]:
    """The lines of code that a traceback names, those of its causes and notes included, and no other text."""
    for path, line, function in _CODE.findall(text):
        yield f"  {_short(path)}:{line} in {function}"


def _cut(text: str) -> str:
    return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]}\n…\n{text[-_TAIL:]}"


def _short(path: str) -> str:
    """A path of code without the folders of this installation."""
    if path.startswith(_PACKAGE):
        return f"cxrpipe/{path.removeprefix(_PACKAGE)}"
    if "/site-packages/" in path:
        return path.rpartition("/site-packages/")[2]
    return path.rpartition("/")[2]
