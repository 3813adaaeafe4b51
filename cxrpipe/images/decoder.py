"""The program of a process that decodes images. `cxrpipe.images.isolation` starts and ends the process.

The process answers one question after the other. It imports only what its function needs, and neither Arrow nor boto3.
"""

import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
import traceback
from types import TracebackType

from cxrpipe.errors import StudyError
from cxrpipe.images import answers, wall
from cxrpipe.images.squares import Decode

SETUP = struct.Struct("<I")
"""Length of the pickled (function, timeout_s, memory_bytes) that follow. The process trusts its parent."""
QUESTION = struct.Struct("<IQ")
"""Lengths of the pickled (name, preparations) and of the file, which follow."""


def serve(descriptor: int) -> None:
    """Answer questions until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # out of memory, Linux kills this process first and not its parent
    import cv2

    from cxrpipe.images import radiographs  # noqa: F401 (behind the wall no file can be opened, so pydicom comes now)

    cv2.setNumThreads(1)  # processes run in parallel, not threads
    pipe = socket.socket(fileno=descriptor)
    decode, timeout_s, memory_bytes = pickle.loads(_read(pipe, *SETUP.unpack(_read(pipe, SETUP.size))))
    parts = wall.raise_wall(memory_bytes)
    answers.send_ready(pipe, parts)
    os.dup2(sys.stdin.fileno(), sys.stderr.fileno())  # /dev/null: the messages of a codec could fill a disk

    def send_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        answers.send_bug(pipe, error, "".join(traceback.format_exception(error)))

    sys.excepthook = send_bug  # a bug ends this process and is raised in the parent
    while True:
        _answer(pipe, decode, timeout_s)


def _answer(pipe: socket.socket, decode: Decode, timeout_s: float) -> None:
    """Read one question, decode the file and send the answer."""
    name_bytes, data_bytes = QUESTION.unpack(_read(pipe, QUESTION.size))
    name, preparations = pickle.loads(_read(pipe, name_bytes))
    data = _read(pipe, data_bytes)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)  # the signal has no handler: it ends the process even inside C code
    try:
        decoded = decode(data, name, preparations)
    except StudyError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.send_refusal(pipe, error)
    except MemoryError:
        signal.setitimer(signal.ITIMER_REAL, 0)
        detail = f"{name}: its decoder needs more memory than its limit allows"
        answers.send_refusal(pipe, StudyError("crashed", detail))
    else:
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.send_decoded(pipe, decoded, preparations)


def _read(pipe: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes. Ends the process if the parent is gone."""
    pieces, missing = [], size
    while missing:
        piece = pipe.recv(missing, socket.MSG_WAITALL)  # at most 2 GiB a call
        if not piece:
            sys.exit()
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
