"""Everything that this project raises on purpose, and the exit statuses of its programs.

CxrError
├── ConfigError   a request that cannot be met; refused before any work          exit status 2
├── StoreError    a store that stays away or refuses every request; resumable    exit status 1
├── RunError      a run that broke; the same command resumes it                  exit status 1
│   └── DeviceLostError   a GPU that no longer answers this process
├── LockError     another run holds the score root                               exit status 4
└── StudyError    one object that cannot be used; it becomes a row and never stops a run

Any other exception is a bug. While a study is scored, a bug costs only this study, whose row gets the reason
`internal_error` (`cxrpipe.scoring.faults`, the one place with `except Exception`). Elsewhere a bug crashes the program.
"""

from enum import IntEnum


class ExitStatus(IntEnum):
    """How a program ends. `docs/operate.md` says what an operator does about each status."""

    DONE = 0
    BROKE = 1
    """The same command resumes."""
    REFUSED = 2
    """A wrong request; nothing was done."""
    TOO_MANY_FAILED = 3
    """Everything is scored and published, but more studies failed than --max-failed-fraction allows.

    From `predict`: at least one file failed."""
    LOCKED = 4
    """Another run holds the score root."""
    DRIFTED = 5
    """`compare` found that the findings have drifted."""


class CxrError(Exception):
    """Root of the tree. The message is one line for a person: what was found, where, and what to do."""

    exit_status = ExitStatus.BROKE


class ConfigError(CxrError):
    """A request that cannot be met: a wrong flag, an absent archive, a folder that is not a model."""

    exit_status = ExitStatus.REFUSED


class StoreError(CxrError):
    """A store that cannot be reached or that refuses our credentials. No study is at fault."""


class RunError(CxrError):
    """A run that broke. Its finished parts stay; the same command resumes it."""


class DeviceLostError(RunError):
    """A device that fails every call of this process: only another process can use it again."""


class LockError(CxrError):
    """Another run holds the score root, or has taken it over."""

    exit_status = ExitStatus.LOCKED


class StudyError(CxrError):
    """Bad data. `reason` is a word of `cxrpipe.records.REASONS`; the message becomes the row's `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        detail = printable(detail)  # may quote a file's name or header, and goes into Arrow, JSON and a terminal
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["StudyError"], tuple[str, str]]:
        return StudyError, (self.reason, self.detail)


def printable(text: str) -> str:
    """The text with escapes for what UTF-8 cannot encode: half a surrogate pair, from a name that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
