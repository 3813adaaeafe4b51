"""The wall around a process that decodes files of strangers. The process raises it after its imports.

A part that the kernel does not permit is left out, and the decoder works without it. `python -m cxrpipe.images.wall`
tries the parts on this machine or in this container. docs/security.md describes what the wall protects.
"""

import contextlib
import ctypes
import os
import resource
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cxrpipe.images import seccomp

_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH")
"""Variables that a decoder keeps: the encoding of file names, and the libraries of a Python outside /usr."""
_NUMBERS = {
    "OMP_NUM_THREADS": "1",  # processes run in parallel, not threads
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""Threads, and how much freed memory the C library keeps for the next film. Without the latter the kernel hands out and
clears the pages of every array: 6 of 23 ms of CPU for an uncompressed film, 9 of 68 for JPEG-LS
(`benchmarks/prepare.py --kinds dicom_raw,jpeg_ls --sides 224`, isolated)."""
_LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")

# <linux/prctl.h>, <linux/capability.h>, <linux/landlock.h>. The calls of Landlock have one number on all processors.
_NO_NEW_PRIVILEGES = 38
_CAPABILITIES_OF_THIS_PROCESS = struct.pack("=Ii", 0x2008_0522, 0)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_KINDS_OF_ACCESS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Version of Landlock → number of kinds of access to files that it knows; 16 from version 5 on."""


def environment() -> dict[str, str]:
    """The whole environment of a decoder. It is an allow-list, so that it holds no credential of any name."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | _NUMBERS


def raise_wall(memory_bytes: int) -> tuple[str, ...]:
    """Give up for good what a decoder does not need, and return the names of the parts that stand.

    landlock  the process can only read files of Python and of system libraries, and cannot look into other processes
    seccomp   the process cannot use sockets, start programs or processes, signal others or change files
              (`cxrpipe.images.seccomp`)

    Limits hold everywhere: `memory_bytes` of address space, no core dump, no byte written to a file. On Linux the
    process gives up the capabilities of root, too.
    """
    for limit, highest in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        with contextlib.suppress(OSError, ValueError):  # the limit is unknown here, or already lower
            resource.setrlimit(limit, (highest, highest))
    if sys.platform != "linux" or ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return ()
    ctypes.CDLL(None).capset(_CAPABILITIES_OF_THIS_PROCESS, bytes(24))  # no capabilities, even if the job runs as root
    parts = {"landlock": _read_only, "seccomp": seccomp.install}
    return tuple(name for name, build in parts.items() if build())


def _read_only() -> bool:
    """Confine this process with Landlock to reading `_readable`. False if the kernel does not permit it."""
    version = _call(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    every_kind = (1 << _KINDS_OF_ACCESS.get(version, 16)) - 1
    rules = _call(_CREATE_RULESET, struct.pack("=Q", every_kind), 8, 0)
    if rules < 0:
        return False
    for path in _readable():
        with contextlib.suppress(OSError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = _READ_FILE | _READ_FOLDER if os.path.isdir(path) else _READ_FILE
            _call(_ADD_RULE, rules, 1, struct.pack("=Qi", allowed, place), 0)
            os.close(place)
    restricted = _call(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return restricted


def _readable() -> Iterator[str]:
    """Folders that a decoder may still import or load from: those of Python, but none that contains a home folder."""
    home = os.path.realpath(os.path.expanduser("~"))
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    for path in {os.path.realpath(folder) for folder in (*sys.path, sys.prefix, sys.base_prefix, *libraries)}:
        if path != "/" and not Path(home).is_relative_to(path):
            yield path
    yield from (str(Path(__file__).parent), *_LIBRARIES)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call; -1 if it is refused or unknown."""
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), *wide))


# ---- python -m cxrpipe.images.wall -----------------------------------------------------------------------------------


def attempts(folder: str) -> dict[str, Callable[[], object]]:
    """Things that an attacker who has taken over a decoder would try. Each raises OSError if the wall stands."""
    written = Path(folder) / "written"
    return {
        "open a socket": lambda: socket.socket().close(),
        "create a file": written.touch,
        "write to a file": lambda: written.write_bytes(b"1"),
        "read files of the user": lambda: next(Path(folder).iterdir(), None),
        "read the environment of the parent": Path(f"/proc/{os.getppid()}/environ").read_bytes,
        "start a program": lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}),
        "signal to the parent": lambda: os.kill(os.getppid(), 0),
    }


def _main() -> None:
    """A child behind the wall tries every attempt; this process prints, for the child may not write to a file."""
    reading_end, writing_end = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        if os.fork() == 0:
            with open(writing_end, "w") as lines:
                lines.writelines(f"{line}\n" for line in _tried(folder))
            os._exit(0)
        os.close(writing_end)
        with open(reading_end) as lines:
            print(lines.read(), end="")
        os.wait()


def _tried(folder: str) -> Iterator[str]:
    """Raise the wall and yield a line for each attempt."""
    yield f"parts that stand: {', '.join(raise_wall(8 << 30)) or 'limits alone'}"
    for title, attempt in attempts(folder).items():
        try:
            attempt()
        except OSError as error:
            yield f"refused   {title} ({error.strerror})"
        else:
            yield f"POSSIBLE  {title}"


if __name__ == "__main__":
    _main()
