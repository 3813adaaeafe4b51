"""Exceptions that nobody foresaw: the one place of the package that catches them, and hands them to one study.

`guarded` stands around the preparation of one study, around the networks, and around the finishing of one study. What
it catches is a bug, of ours or of a library; it costs the study it met, which becomes a row `internal_error`. An
exception that is everywhere stops the run all the same: see `cxrpipe.runs.watch`.
"""

import re
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from cxrpipe.errors import ConfigError, LockError, RunError, StoreError, printable
from cxrpipe.images.answers import DecoderError

Result = TypeVar("Result")
Otherwise = TypeVar("Otherwise")

STOPPING = (StoreError, RunError, LockError, ConfigError)
"""What stops a run, and is never the fault of one study."""
_HEAD, _TAIL = 2_000, 6_000
"""Characters that are kept of a traceback: a recursion that never ends has more."""
_PASSED_ON = ("cxrpipe/scoring/faults.py", "cxrpipe/images/isolation.py", "cxrpipe/images/decoder.py")
"""Frames of every traceback, where nothing went wrong as a rule."""
_CODE = re.compile(r'^\s*File "([^"]+\.py)", line (\d+), in ([\w<>]+)$', re.MULTILINE)


class Fault(NamedTuple):
    """An exception that nobody foresaw, as text: it travels between processes and machines."""

    kind: str
    """Type and place, never a message: `KeyError at cxrpipe/images.py:88`. Two of one kind are one bug."""
    code: str
    """The places in the code that led there, without a message: what may be told of a study whose id is a pseudonym."""
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> "Fault":
        if isinstance(error, DecoderError):  # its own traceback ends where its answer was read
            kind, text = error.kind, "\n".join(error.__notes__)
        else:
            kind, text = type(error).__name__, "".join(traceback.format_exception(error))
        places = [f"{_short(path)}:{line}" for path, line, _ in _CODE.findall(text)]
        ours = [place for place in places if place.startswith("cxrpipe/") and not place.startswith(_PASSED_ON)]
        nearest = (ours or places or ["an unknown place"])[-1]
        return cls(kind=f"{kind} at {nearest}", code="\n".join(_code(text)), traceback=printable(_cut(text.rstrip())))

    def told(self, private: bool) -> str:
        """For the log. `private`: without any message of an exception, which may hold a path or a patient."""
        return self.code if private else self.traceback


def guarded(work: Callable[[], Result], otherwise: Callable[[Fault], Otherwise]) -> Result | Otherwise:
    """The result of `work`, or what `otherwise` makes of an exception that nobody foresaw.

    `otherwise` is called when the exception is gone, and with it the arrays and tensors that its frames held.
    """
    try:
        return work()
    except STOPPING:
        raise
    except Exception as error:  # noqa: BLE001  # the only place: one study cannot end a run
        fault = Fault.of(error)
    return otherwise(fault)


def _code(text: str) -> Iterator[str]:
    """The places that a traceback names, its causes' and its notes' too, and nothing else of it."""
    for path, line, function in _CODE.findall(text):
        yield f"  {_short(path)}:{line} in {function}"


def _cut(text: str) -> str:
    return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]}\n…\n{text[-_TAIL:]}"


def _short(path: str) -> str:
    """A path of code without the folders in which this installation happens to lie."""
    if "/site-packages/" in path:
        return path.rpartition("/site-packages/")[2]
    return f"cxrpipe/{path.rpartition('/cxrpipe/')[2]}" if "/cxrpipe/" in path else path.rpartition("/")[2]
