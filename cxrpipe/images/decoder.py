"""The process that decodes: it answers one question after the other. `cxrpipe.images.isolation` starts and ends it.

It imports what its function needs, and neither Arrow nor boto3.
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
"""Bytes of pickled (function, timeout_s, memory_bytes), which follow. The parent is trusted; this process is not."""
QUESTION = struct.Struct("<IQ")
"""Bytes of pickled (name, preparations), and of the file. Both follow."""


def serve(descriptor: int) -> None:
    """Answer questions until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the parent
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # Linux without memory takes this process first, and not its parent
    import cv2

    cv2.setNumThreads(1)  # what runs at once are processes
    pipe = socket.socket(fileno=descriptor)
    decode, timeout_s, memory_bytes = pickle.loads(_read(pipe, *SETUP.unpack(_read(pipe, SETUP.size))))
    parts = wall.raise_wall(memory_bytes)
    answers.send_ready(pipe, parts)
    os.dup2(sys.stdin.fileno(), sys.stderr.fileno())  # /dev/null: a codec's complaints could fill a disk

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        answers.send_bug(pipe, error, "".join(traceback.format_exception(error)))

    sys.excepthook = tell  # a bug is raised in the parent, and ends this process
    while True:
        _answer(pipe, decode, timeout_s)


def _answer(pipe: socket.socket, decode: Decode, timeout_s: float) -> None:
    name_bytes, data_bytes = QUESTION.unpack(_read(pipe, QUESTION.size))
    name, preparations = pickle.loads(_read(pipe, name_bytes))
    data = _read(pipe, data_bytes)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)  # its signal has no handler: it ends the process, even in C
    try:
        decoded = decode(data, name, preparations)
    except StudyError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.send_refusal(pipe, error)
    except MemoryError:
        signal.setitimer(signal.ITIMER_REAL, 0)
        needs = f"{name}: its decoder needs more memory than it may have"
        answers.send_refusal(pipe, StudyError("crashed", needs))
    else:
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.send_decoded(pipe, decoded, preparations)


def _read(pipe: socket.socket, size: int) -> bytes:
    """Exactly so many bytes; ends the process where the parent is gone."""
    pieces, missing = [], size
    while missing:
        piece = pipe.recv(missing, socket.MSG_WAITALL)  # 2 GiB a call at most
        if not piece:
            sys.exit()
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
