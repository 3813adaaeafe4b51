"""Decoders that crash, hang or take all memory, as the last bytes of a file ask for. Child processes import them."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

SEGFAULT, EXIT, KILL, SLEEP, STUCK, ALLOCATE, BUG = (
    f"<{name}>".encode() for name in ("segfault", "exit", "kill", "sleep", "stuck", "allocate", "bug")
)


def obey(data: bytes, name: str, *more: Any) -> int:
    """The process that ran it, unless the data ask for worse."""
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
    return os.getpid()


def die_the_first_time(data: bytes, name: str) -> int:
    """`data` is the path of a file that says that there was a first time."""
    path = Path(data.decode())
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def interrupt(data: bytes, name: str) -> bytes:
    """As Ctrl-C does, which a terminal sends to every process."""
    os.kill(os.getpid(), signal.SIGINT)
    return data


# ---- for the fuzz tests ---------------------------------------------------------------------------------------


def pixels_of(data: bytes, name: str) -> tuple[str, int, int]:
    """dtype, dimensions and number of the pixels of a picture."""
    from cxrpipe.images import radiographs

    pixels = radiographs.decode(data, "voi", name).pixels
    return str(pixels.dtype), pixels.ndim, pixels.size


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
