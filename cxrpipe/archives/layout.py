"""What every layout is: a name, a way to recognise it, and a way to read studies out of it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.records import Study


class Skipped(NamedTuple):
    """A file that is no radiograph of any study."""

    url: str
    entry: str | None
    reason: str


class Unmatched(NamedTuple):
    """Labels whose image is not in the archive."""

    study_id: str


Found = Study | Skipped | Unmatched


class Layout(Protocol):
    NAME: str

    def recognise(self, names: Sequence[str]) -> str | None:
        """Why the names look like this layout, or None where they do not."""

    def studies(self, catalogue: Catalogue) -> Iterator[Found]:
        """Every study once, with its labels; a study that the archive splits says so."""
