"""Everything this project raises on purpose.

CxrError
├── ConfigError   a request that cannot be met; refused before any work     exit status 2
├── StoreError    a store that stays away, or refuses us altogether         exit status 1, resumable
├── RunError      a run that broke; the same command resumes it             exit status 1
│   └── DeviceLostError   a GPU that answers this process no more
├── LockError     another run holds the score root                          exit status 4
└── StudyError    one object that cannot be used; it becomes a row, never stops a run

Anything else that is raised is a bug. While a study is scored it costs that study, whose row gets the reason
`internal_error` (`cxrpipe.scoring.faults`, the one place with `except Exception`); elsewhere it is left to crash.
"""


class CxrError(Exception):
    """Root of the tree. The message is one line for a person: what was found, where, and what to do."""

    exit_status = 1


class ConfigError(CxrError):
    """A request that cannot be met: a wrong flag, an absent archive, a folder that is not a model."""

    exit_status = 2


class StoreError(CxrError):
    """A store that cannot be reached or refuses our credentials. Not the fault of any study."""


class RunError(CxrError):
    """A run that broke. What it has finished stays; the same command resumes it."""


class DeviceLostError(RunError):
    """A device that fails whatever this process asks of it: only another process can use it again."""


class LockError(CxrError):
    """Another run holds the score root, or has taken it over."""

    exit_status = 4


class StudyError(CxrError):
    """Bad data. `reason` is a word of `cxrpipe.records.REASONS`; the message becomes the row's `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        detail = printable(detail)  # it may quote a file's name or header, and goes into Arrow, JSON and a terminal
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple:
        return StudyError, (self.reason, self.detail)


def printable(text: str) -> str:
    """The text, with an escape for what UTF-8 cannot write: half a surrogate pair, from a name that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
