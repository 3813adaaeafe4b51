"""What every layout is: a name, a way to recognise it, and a way to read studies out of it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.containers import File
from cxrpipe.records import Study


class Skipped(NamedTuple):
    """A file that is no radiograph of any study."""

    url: str
    entry: str | None
    reason: str
    detail: str | None = None
    """A line for a person, where the reason does not say all."""


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


def group(
    files: Iterable[File], place: Callable[[File], tuple[str, str] | None], otherwise: str
) -> tuple[dict[str, dict[str, File]], list[Skipped]]:
    """Study id → name of a view → its file, and what is left: files there twice, or with no place (why: `otherwise`).

    place  (study id, name of the view) of a file, or None where it is none
    """
    studies: dict[str, dict[str, File]] = {}
    skipped = []
    for file in files:
        placed = place(file)
        if placed is None:
            skipped.append(Skipped(file.url, file.entry, otherwise))
        elif studies.setdefault(placed[0], {}).setdefault(placed[1], file) is not file:
            skipped.append(Skipped(file.url, file.entry, "duplicate_instance"))
    return studies, skipped
