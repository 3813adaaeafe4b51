"""Lines and bars on stderr while a program runs, for people; with CXRPIPE_LOG=json lines for machines instead.

    02:00:05 score: run 20260131T020005.123456-1a2b3c4d, 112,120 studies
    {"time": "2026-01-31T02:00:05.123+00:00", "level": "info", "program": "score", "run": "…-1a2b3c4d", "message": …}

No line and no bar ends a program: what a stream does not take is dropped, and names are printed as they are, whatever
brackets or bytes they hold. No line names a patient. A study is named by its id, where it is named at all.
"""

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import IO, Protocol, TextIO, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
_LINE_EVERY_S = 10.0
_about: dict[str, str] = {}  # of the whole process, its threads too: it runs one program, and one run at a time


@contextlib.contextmanager
def about(**what: str) -> Iterator[None]:
    """Say what the lines in this block are about: `program`, `run`."""
    before = dict(_about)
    _about.update(what)
    try:
        yield
    finally:
        _about.clear()
        _about.update(before)


def is_json() -> bool:
    """Whether lines are for machines. The environment says so, because it also holds for what is refused before flags
    are read, and in a runtime environment of Ray."""
    return os.environ.get("CXRPIPE_LOG") == "json"


def _json(message: str, level: str) -> str:
    """One JSON object on one line."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, **_about, "message": message}, ensure_ascii=False)


class _Stream:
    """stdout or stderr, which may be closed, full, or of a terminal that has gone. Looked up anew at every use."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _stream(self) -> TextIO | None:
        stream: TextIO | None = getattr(sys, self._name)  # None in a process that was started without it
        return stream

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        with self._dropping():
            if self._stream:
                self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            if self._stream:
                self._stream.flush()

    def isatty(self) -> bool:
        with self._dropping():
            return bool(self._stream and self._stream.isatty())
        return False

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(f"this process has no {self._name}")
        return self._stream.fileno()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # nobody reads any more; Python would complain of what is left once more at its end
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
        except (OSError, ValueError):  # a full disk; a closed file
            pass


def _console(stream: str, width: int | None = None) -> Console:
    """A console that takes text as it is: neither `[bold]` nor `:lungs:` in a name means anything."""
    file = cast(IO[str], _Stream(stream))
    return Console(file=file, width=width, soft_wrap=width is None, highlight=False, markup=False, emoji=False)


def out(width: int | None = None) -> Console:
    """For results: stdout."""
    return _console("stdout", width)


@functools.cache
def _err() -> Console:
    """One for lines and bars, so that a line does not break a bar."""
    return _console("stderr")


def log(message: str, level: str = "info") -> None:
    """One line on stderr: the time of day, the program that runs, the message."""
    if is_json():
        print(_json(message, level), file=_Stream("stderr"), flush=True)
    else:
        program = f"{_about['program']}: " if "program" in _about else ""
        _err().print(f"{time.strftime('%H:%M:%S')} {program}{message}")


def complain(program: str, message: object) -> None:
    """The last line of a program that refuses or breaks."""
    if is_json():
        log(str(message), "error")
    else:
        print(f"cxrpipe {program}: {message}", file=_Stream("stderr"), flush=True)


class Advance(Protocol):
    def __call__(self, done: int, note: str = "", /) -> None:
        """done: since the last call; note: what else is to be shown beside it"""


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """A bar on a terminal, else a line every ten seconds; call the function with what has been done since."""
    if not _Stream("stderr").isatty() or is_json():
        yield _Lines(what, total).advance
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        _Note(),
    )
    with Progress(*columns, console=_err()) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done, note="": bar.update(task, advance=done, note=note)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")


class _Note(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["note"])


def counted(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items; every ten seconds a line says how many there were. Unlike bars it may stand inside another."""
    lines = _Lines(what, total)
    for item in items:
        yield item
        lines.advance(1)


class _Lines:
    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total, self._done = what, total, 0
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None
        """When the first of them were done, and how many. Rates count from here: what comes before is start-up."""

    def advance(self, done: int, note: str = "") -> None:
        self._done += done
        now = time.monotonic()
        since, of_start = self._first = self._first or (now, self._done)
        if now - self._said < _LINE_EVERY_S:
            return
        self._said = now
        done_of_all = f"{self._done:,}" if self._total is None else f"{self._done:,} of {self._total:,}"
        facts = [f"{self._what}: {done_of_all}", *self._speed(now - since, self._done - of_start), note]
        log(", ".join(fact for fact in facts if fact))

    def _speed(self, seconds: float, done: int) -> list[str]:
        """Tell the rate, and the time that is left; nothing while only the first are done."""
        if seconds <= 0 or done <= 0:
            return []
        rate = done / seconds
        if self._total is None:
            return [f"{rate:,.0f}/s"]
        return [f"{rate:.1f}/s", f"{(self._total - self._done) / rate:.0f} s left"]
