"""A filter of system calls (Linux, seccomp) that takes from this process what no decoder needs.

The filter refuses with EPERM: new sockets, new programs and processes, signals to other processes and access to their
memory, opening a file to write, and every change of names, modes and owners. The filter lists refused calls, not
allowed ones: codecs and C libraries differ in their calls, and refusing a harmless call would cost good images.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_PROCESSOR = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
"""Column of `_NUMBERS`, and AUDIT_ARCH of <linux/audit.h>."""
_SECCOMP = (317, 277)
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # the network
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    # programs, and what the kernel runs for a process
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    # things that outlive a process: keys, shared memory and queues of System V
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # files: opened to write, they are refused by their flags below
    "creat": (85, None),
    "open_by_handle_at": (304, 265),
    "truncate": (76, 45),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
_UNKNOWN: dict[str, tuple[int, int]] = {"clone3": (435, 435), "openat2": (437, 437), "io_uring_setup": (425, 425)}
"""Calls whose arguments lie behind a pointer, where no filter can look. With ENOSYS a C library falls back on the older
call."""

# <linux/bpf_common.h>, <linux/seccomp.h>, <linux/sched.h>
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x4000_0000
_CLONE_THREAD = 0x0001_0000
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def install() -> bool:
    """Filter the calls of every thread of this process for good. False if kernel or processor do not permit it.

    The process must have given up new privileges before (PR_SET_NO_NEW_PRIVS).
    """
    if sys.platform != "linux" or platform.machine() not in _PROCESSOR or sys.maxsize < 2**32:
        return False
    column, architecture = _PROCESSOR[platform.machine()]
    program = _program(column, architecture)
    instructions = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    set_mode_filter, every_thread = 1, 1
    number = ctypes.c_long(_SECCOMP[column])
    return bool(ctypes.CDLL(None).syscall(number, set_mode_filter, every_thread, ctypes.c_char_p(head)) == 0)


def _program(column: int, architecture: int) -> bytes:
    """The filter as BPF instructions for one processor."""
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL),  # calls of another architecture have other numbers
        _step(_LOAD, _NUMBER),
    ]
    if architecture == _PROCESSOR["x86_64"][1]:
        steps += [_step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _KILL)]
    for pairs, error in ((_NUMBERS, errno.EPERM), (_UNKNOWN, errno.ENOSYS)):
        numbers = [pair[column] for pair in pairs.values()]
        steps += [step for number in numbers if number is not None for step in _refuse(number, error)]
    kill, tkill, tgkill, clone, openat, prlimit64 = (
        (62, 200, 234, 56, 257, 302) if column == 0 else (129, 130, 131, 220, 56, 261)
    )
    for number in (kill, tkill, tgkill):  # abort() signals its own process
        steps += _refuse_unless(number, 0, _EQUAL, os.getpid(), True)
    steps += _refuse_unless(prlimit64, 0, _EQUAL, 0, True)  # 0 is the process itself
    steps += _refuse_unless(clone, 0, _ANY_BIT, _CLONE_THREAD, True)
    steps += _refuse_unless(openat, 2, _ANY_BIT, _TO_WRITE, False)
    if column == 0:
        steps += _refuse_unless(2, 1, _ANY_BIT, _TO_WRITE, False)  # open
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _refuse(number: int, error: int) -> list[bytes]:
    return [_step(_EQUAL, number, 0, 1), _step(_RETURN, _REFUSE | error)]


def _refuse_unless(number: int, argument: int, test: int, value: int, holds: bool) -> list[bytes]:
    """Allow call `number` if and only if the test of an argument's low 32 bits gives `holds`."""
    jumps = (1, 0) if holds else (0, 1)
    return [
        _step(_EQUAL, number, 0, 4),
        _step(_LOAD, _ARGUMENTS + 8 * argument),  # both processors store the low half first
        _step(test, value, *jumps),
        _step(_RETURN, _REFUSE | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]


def _step(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    """One instruction (struct sock_filter)."""
    return struct.pack("=HBBI", code, when_true, when_false, value)
