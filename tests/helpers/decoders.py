"""Decoders that crash, hang, take all memory or were taken over, as the last bytes of a file ask for.

Child processes import them.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cxrpipe.errors import StudyError
from cxrpipe.images import radiographs, wall
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.rasters import LeastSize
from cxrpipe.images.squares import Decoded, decode_view

SEGFAULT, EXIT, KILL, SLEEP, STUCK, ALLOCATE, BUG = (
    f"<{name}>".encode() for name in ("segfault", "exit", "kill", "sleep", "stuck", "allocate", "bug")
)
FLAGS = ("few_bits_used", "inverted_suspect")


def obey(data: bytes, name: str, preparations: Sequence[Preparation] = ()) -> Decoded:
    """`rows_px` is the process that ran it, unless the data ask for worse."""
    if data.endswith(SEGFAULT):
        ctypes.string_at(0)
    if data.endswith(EXIT):
        os._exit(3)
    if data.endswith(KILL):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.endswith(SLEEP):
        time.sleep(600)
    if data.endswith(STUCK):
        ctypes.PyDLL(None).sleep(600)  # in C, with the interpreter's lock
    if data.endswith(ALLOCATE):
        bytearray(1 << 40)
    if data.endswith(BUG):
        raise ZeroDivisionError(name)
    return _made(os.getpid())


def interrupt(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """As Ctrl-C does, which a terminal sends to every process."""
    os.kill(os.getpid(), signal.SIGINT)
    return _made()


def flag(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    return decode_view(data, name, preparations)._replace(flags=FLAGS)


def import_late(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """The module that `data` names, for the first time."""
    assert data.decode() not in sys.modules
    importlib.import_module(data.decode())
    return _made()


def _made(rows_px: int = 1) -> Decoded:
    return Decoded(rows_px, 1, blank=False, squares={})


# ---- taken over -----------------------------------------------------------------------------------------------


def say(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """Answers with `data` itself, and nothing else for ten minutes."""
    os.write(_pipe(), data)
    time.sleep(600)
    return _made()


def say_and_end(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    os.write(_pipe(), data)
    os._exit(0)


def hang_up(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """Closes the pipe and lives on."""
    os.close(_pipe())
    time.sleep(600)
    return _made()


def ignore_the_alarm(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    signal.setitimer(signal.ITIMER_REAL, 0)
    time.sleep(600)
    return _made()


def chatter(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """More than a pipe holds, on both streams."""
    for stream in (1, 2):
        os.write(stream, bytes(1 << 20))
    print("a warning of a codec", file=sys.stderr, flush=True)
    return _made()


def print_environment(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    raise StudyError("corrupt", json.dumps(dict(os.environ)))


def attempt(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """One of `wall.attempts`, which `data` names, in the folder `name`; `corrupt` where it is refused."""
    try:
        wall.attempts(name)[data.decode()]()
    except OSError as error:
        raise StudyError("corrupt", str(error.strerror)) from None
    return _made()


def _pipe() -> int:
    """The descriptor of the pipe to the parent."""
    return next(number for number in range(3, 64) if _is_socket(number))


def _is_socket(number: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False


# ---- for the fuzz tests ---------------------------------------------------------------------------------------


def pixels_of(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """Decodes a picture at reduced scale and whole, and sees to the promise about its pixels."""
    for at_least in (LeastSize(16), None):
        pixels = radiographs.decode(data, "voi", name, at_least=at_least).pixels
        assert (str(pixels.dtype), pixels.ndim) == ("uint8", 2)
        assert pixels.size <= radiographs.MAX_PIXELS
    return _made()


def limit_memory(most_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))


def index_of(data: bytes, name: str) -> int | None:
    """How many studies and whole files a container of class folders gives; None: refused. `name` is a fresh path."""
    from cxrpipe.archives import layouts
    from cxrpipe.archives.catalogue import Catalogue
    from cxrpipe.archives.reader import Reader
    from cxrpipe.errors import ConfigError, StudyError
    from cxrpipe.records import Study

    Path(name).write_bytes(data)
    seek_points = Path(name).parent / "seek_points"
    try:
        items = layouts.studies(Catalogue(name, seek_points), layouts.LAYOUTS["folders"], split_seed=0)
        found = [item for item in items if isinstance(item, Study)]
    except ConfigError:
        return None
    with Reader(str(seek_points)) as reader:
        for study in found:
            with contextlib.suppress(StudyError):
                reader.read(study.views[0])
    return len(found)
