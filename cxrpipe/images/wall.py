"""The wall around a process that decodes files of strangers. It is raised after the imports and before the first file.

What the kernel does not permit is left out: the decoder works without it. `python -m cxrpipe.images.wall` tries each
part on the machine, or in the container, where it is run. docs/security.md says what the wall is worth.
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
"""How names of files are encoded, and where the libraries of a Python outside /usr lie."""
_LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")

# <linux/prctl.h>, <linux/capability.h>, <linux/landlock.h>; Landlock's calls have the same numbers on all processors
_NO_NEW_PRIVILEGES = 38
_CAPABILITIES_OF_THIS_PROCESS = struct.pack("=Ii", 0x2008_0522, 0)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_KINDS_OF_ACCESS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Kinds of access to files that a version of Landlock knows; from version 5 on 16."""


def environment() -> dict[str, str]:
    """The whole environment of a decoder: an allow-list, so that no credential of any name is in it."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # what runs at once are processes


def raise_wall(memory_bytes: int) -> tuple[str, ...]:
    """Give up, in this process and for good, what a decoder does not need. The parts that stand are named:

    landlock  opens no file but Python's own and those of the system's libraries, to read; no look into other processes
    seccomp   no socket, program, process, signal to another process or change of a file; see `cxrpipe.images.seccomp`

    Limits stand everywhere: no memory above `memory_bytes` of address space, no core dump, no byte written to a file.
    On Linux root's capabilities are given up, too.
    """
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        with contextlib.suppress(OSError, ValueError):  # unknown here, or less is allowed already
            resource.setrlimit(limit, (most, most))
    if sys.platform != "linux" or ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return ()
    ctypes.CDLL(None).capset(_CAPABILITIES_OF_THIS_PROCESS, bytes(24))  # none, where the job runs as root
    parts = {"landlock": _read_only, "seccomp": seccomp.install}
    return tuple(name for name, built in parts.items() if built())


def _read_only() -> bool:
    """Whether Landlock confines this process to reading `_readable`."""
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
    """What a decoder may still import or load: folders of Python, but none that holds a person's home."""
    home = os.path.realpath(os.path.expanduser("~"))
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    for path in {os.path.realpath(each) for each in (*sys.path, sys.prefix, sys.base_prefix, *libraries)}:
        if path != "/" and not Path(home).is_relative_to(path):
            yield path
    yield from (str(Path(__file__).parent), *_LIBRARIES)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """A system call; -1 where it is refused or unknown."""
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return ctypes.CDLL(None).syscall(ctypes.c_long(number), *wide)


# ---- python -m cxrpipe.images.wall -----------------------------------------------------------------------------------


def attempts(folder: str) -> dict[str, Callable[[], object]]:
    """What somebody would try who has taken a decoder over. Each raises OSError where the wall stands."""
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
    """A process behind the wall tries; this one prints, for the other may not write to a file."""
    theirs, ours = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        if os.fork() == 0:
            with open(ours, "w") as lines:
                lines.writelines(f"{line}\n" for line in _tried(folder))
            os._exit(0)
        os.close(ours)
        with open(theirs) as lines:
            print(lines.read(), end="")
        os.wait()


def _tried(folder: str) -> Iterator[str]:
    yield f"parts that stand: {', '.join(raise_wall(8 << 30)) or 'limits alone'}"
    for what, attempt in attempts(folder).items():
        try:
            attempt()
        except OSError as error:
            yield f"refused   {what} ({error.strerror})"
        else:
            yield f"POSSIBLE  {what}"


if __name__ == "__main__":
    _main()
