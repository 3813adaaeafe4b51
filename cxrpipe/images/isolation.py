"""Decodes files in separate processes, so that a file that crashes, hangs or takes over its decoder costs only its row.

`decoder` is the program of the process, `answers` defines what the process may answer, `wall` limits what it may do.
Multiprocessing does not serve: its processes answer with pickles and import the main program again, which in a Ray
worker is Ray.
"""

import contextlib
import functools
import pickle
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Self

from cxrpipe.errors import RunError, StudyError
from cxrpipe.images import answers, wall
from cxrpipe.images.answers import DecoderError, WrongAnswerError
from cxrpipe.images.decoder import QUESTION, SETUP
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, Decoded

__all__ = ["DecoderError", "Isolated"]

START_LIMIT_S = 120  # takes 0.4 s on an idle machine
GRACE_S = 10
"""Time beyond the timeout after which the parent ends a process. A process ends itself by an alarm, but one that was
taken over may have turned the alarm off."""
_LAST_WORDS_S = 5  # a process that cannot start closes its pipe before it prints the reason
_PIPE_BYTES = 1 << 20
"""Buffer of the pipe; a larger one saves switches between the processes. Linux allows 208 KiB by default
(net.core.wmem_max)."""


class Isolated:
    """Runs `decode(data, name, preparations)` in child processes. Threads may share it. Leaving `with` ends them.

    decode        a function of a module, because the child imports it: `squares.decode_view` or one of its signature
    timeout_s     time limit of one call
    children      largest number of processes; each starts when it is needed, and again after it has died
    memory_bytes  address space of a process
    """

    def __init__(self, decode: Decode, timeout_s: float, children: int = 1, memory_bytes: int = 8 << 30) -> None:
        self._start = functools.partial(_Child, decode, timeout_s, memory_bytes)
        self._timeout_s = timeout_s
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()  # last in, first out: few processes are started
        for _ in range(children):
            self._idle.put(None)

    def __enter__(self) -> Self:
        """Start the first process, which imports while the caller does something else."""
        self._idle.put(self._idle.get() or self._start())
        return self

    def __exit__(self, *error: object) -> None:
        for child in [self._idle.get() for _ in range(self._idle.qsize())]:
            if child:
                child.end()
            self._idle.put(None)

    def __call__(self, data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
        """Decode in a child. Raises the StudyError of `decode`, `timeout` or `crashed`; DecoderError for a bug.

        A file is `crashed` after it has killed two processes. One alone may be the victim of a machine without memory.
        """
        for _ in range(2):
            try:
                with self._child() as child:
                    return child.call(data, name, preparations)
            except TimeoutError:
                raise StudyError("timeout", f"{name}: not decoded within {self._timeout_s:g} s") from None
            except _DiedError as died:
                how = died.args[0]
        raise StudyError("crashed", f"{name}: its decoder {how}, and once more when tried again")

    def wall(self) -> tuple[str, ...]:
        """The parts of the wall that stand around the children (`cxrpipe.images.wall.raise_wall`)."""
        with self._child() as child:
            return child.wall()

    @contextlib.contextmanager
    def _child(self) -> Iterator["_Child"]:
        child = self._idle.get()
        try:
            child = child or self._start()
            yield child
        except BaseException as error:
            # After a refusal the process waits for the next question. After any other error its state is unknown.
            if child and not isinstance(error, StudyError):
                child.end()
                child = None
            raise
        finally:
            self._idle.put(child)


class _DiedError(Exception):
    """How a process ended, or why it was ended."""


class _Child:
    """One process and the pipe to it."""

    def __init__(self, decode: Decode, timeout_s: float, memory_bytes: int) -> None:
        self._limit_s = timeout_s + GRACE_S
        self._wall: tuple[str, ...] | None = None
        self._pipe, pipe_of_child = socket.socketpair()
        self._pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)
        number = pipe_of_child.fileno()
        # pydicom imports requests, if installed, to download examples: 60 ms and 138 modules that are not needed.
        # kornia_rs loads the CUDA compiler of torch's CUDA 12 wheels (100 MB), which decoding does not need.
        unneeded = "sys.modules['requests'] = sys.modules['nvidia.cuda_nvrtc'] = None"
        code = f"import sys; sys.path[:] = {sys.path!r}; {unneeded}; "
        with pipe_of_child:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", f"{code}from cxrpipe.images.decoder import serve; serve({number})"],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=wall.environment(),
                start_new_session=True,  # detached from the terminal
            )
        setup = pickle.dumps((decode, timeout_s, memory_bytes))
        with contextlib.suppress(OSError):  # if the process has already ended, `wall` reports it
            self._pipe.sendall(SETUP.pack(len(setup)) + setup)

    def call(self, data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
        """The answer of the process. TimeoutError if it takes too long, _DiedError if the process ends without one."""
        self.wall()
        deadline = time.monotonic() + self._limit_s
        question = pickle.dumps((name, tuple(preparations)))
        try:
            self._pipe.settimeout(self._limit_s)
            self._pipe.sendall(QUESTION.pack(len(question), len(data)) + question)
            self._pipe.sendall(data)
            return answers.receive(functools.partial(self._read, deadline), preparations)
        except WrongAnswerError as wrong:
            raise _DiedError(f"answered with {wrong}") from None
        except TimeoutError:
            raise
        except (EOFError, OSError):
            raise self._death() from None

    def end(self) -> None:
        """Kill the process."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()

    def wall(self) -> tuple[str, ...]:
        """The parts of the wall that stand, as soon as the process is ready."""
        if self._wall is None:
            try:
                self._wall = answers.receive_ready(functools.partial(self._read, time.monotonic() + START_LIMIT_S))
            except (EOFError, OSError, WrongAnswerError):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_LAST_WORDS_S)
                raise RunError("the process that decodes images does not start; its error stands above") from None
        return self._wall

    def _read(self, deadline: float, size: int) -> bytearray:
        """Exactly `size` bytes. TimeoutError after the deadline, EOFError if the pipe is closed."""
        data = bytearray(size)
        missing = memoryview(data)
        while missing:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._pipe.settimeout(left_s)
            received = self._pipe.recv_into(missing)
            if not received:
                raise EOFError
            missing = missing[received:]
        return data

    def _death(self) -> Exception:
        """The exception for a process that has closed its pipe: TimeoutError if its alarm ended it."""
        try:
            status = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return _DiedError("closed its pipe")
        if status == -signal.SIGALRM:
            return TimeoutError()
        return _DiedError(f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}")
