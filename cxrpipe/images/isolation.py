"""A function that may kill its process, called in one of its own: a file that crashes or hangs its decoder costs a row.

Not by multiprocessing, whose children import the main program again: in a Ray worker that is Ray. A child imports what
its function needs, ends with the pipe to its parent, and is ended by an alarm of its own where it is stuck.
"""

import contextlib
import functools
import os
import queue
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any, Generic, NamedTuple, Self, TypeVar

from cxrpipe.errors import RunError, StudyError
from cxrpipe.scoring.faults import ForeignError, guarded

START_LIMIT_S = 120  # 0.5 s where nothing else runs
LAST_WORDS_S = 5  # a child that cannot start closes its pipe before it prints why

Result = TypeVar("Result")


class Isolated(Generic[Result]):
    """`function(data, name, …)`, run in child processes. Threads may share it; leave it (`with`) to end the children.

    function   of a module, for a child imports it; its arguments and its result are pickled
    timeout_s  of one call
    children   at most; started when needed, and again when one has died
    memory_bytes  address space of a child
    """

    def __init__(
        self, function: Callable[..., Result], timeout_s: float, children: int = 1, memory_bytes: int = 8 << 30
    ) -> None:
        self._start = functools.partial(_Child, function, timeout_s, memory_bytes)
        self._timeout_s = timeout_s
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()  # last in, first out: few are started
        for _ in range(children):
            self._idle.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for child in [self._idle.get() for _ in range(self._idle.qsize())]:
            if child:
                child.end()
            self._idle.put(None)

    def __call__(self, data: bytes, name: str, *more: Any) -> Result:
        """What the function returns or raises; StudyError `timeout` or `crashed` where its process ends before.

        `crashed` has killed two: one alone may have been the victim of a machine without memory.
        """
        for _ in range(2):
            try:
                return self._call(data, name, *more)
            except _DiedError as died:
                if died.status == -signal.SIGALRM:
                    raise StudyError("timeout", f"{name}: not decoded within {self._timeout_s:g} s") from None
                how = died.args[0]
        raise StudyError("crashed", f"{name}: its decoder {how}, and once more when tried again")

    def _call(self, *arguments: Any) -> Result:
        child = self._idle.get()
        try:
            child = child or self._start()
            outcome = child.call(arguments)
        except BaseException:  # where the conversation stands is not known
            if child:
                child.end()
            self._idle.put(None)
            raise
        self._idle.put(child)
        if isinstance(outcome, _Raised):
            raise outcome.error
        return outcome


class _DiedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}")
        self.status = status


class _Raised(NamedTuple):
    error: BaseException


# ---- the parent's side ----------------------------------------------------------------------------------------


class _Child:
    """One process and the pipe to it."""

    def __init__(self, function: Callable[..., Any], timeout_s: float, memory_bytes: int) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            code = f"import sys; sys.path[:] = {sys.path!r}; from cxrpipe.images import isolation; isolation.serve()"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        try:
            self._pipe.send((function, timeout_s, memory_bytes))
            ready = self._pipe.poll(START_LIMIT_S) and self._pipe.recv()
        except (EOFError, OSError):
            ready = False
        if not ready:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LAST_WORDS_S)
            self.end()
            raise RunError("the process that decodes images does not start; its error stands above")

    def call(self, arguments: tuple[Any, ...]) -> Any:
        """What the function returned, or `_Raised`; _DiedError where the process ended."""
        try:
            self._pipe.send(arguments)
            return self._pipe.recv()
        except (EOFError, OSError):
            raise _DiedError(self._process.wait()) from None

    def end(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()


# ---- the child's side -----------------------------------------------------------------------------------------


def serve() -> None:
    """Answer calls until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # Linux without memory takes this process first, and not its parent
    import cv2

    cv2.setNumThreads(1)  # what runs at once are children
    with contextlib.suppress(EOFError, OSError), Connection(int(sys.argv[1])) as pipe:
        function, timeout_s, memory_bytes = pipe.recv()
        with contextlib.suppress(OSError, ValueError):  # where it is unknown, or less is allowed already
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        pipe.send(True)
        while True:
            pipe.send(_outcome(function, timeout_s, pipe.recv()))


def _outcome(function: Callable[..., Any], timeout_s: float, arguments: tuple[Any, ...]) -> Any:
    signal.setitimer(signal.ITIMER_REAL, timeout_s)  # its signal has no handler: it ends the process, even in C
    try:
        return guarded(lambda: _answer(function, arguments), lambda fault: _Raised(ForeignError(fault)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except StudyError as error:
        return _Raised(error)
    except MemoryError:
        return _Raised(StudyError("crashed", f"{arguments[1]}: its decoder needs more memory than it may have"))
