"""What every layout is: a name, a way to recognise it, and a way to read studies out of it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.listing import Names, fields, file_of
from cxrpipe.records import Study
from cxrpipe.storage import spill


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

    def recognise(self, names: Names) -> str | None:
        """Why the names look like this layout, or None where they do not."""

    def studies(self, catalogue: Catalogue) -> Iterator[Found]:
        """Every study once, with its labels; a study that the archive splits says so."""


class Group(NamedTuple):
    """The files of one study."""

    study_id: str
    files: dict[str, File]
    """By the names of the views."""


def group(
    files: Iterable[File], place: Callable[[File], tuple[str, str] | None], otherwise: str
) -> Iterator[Group | Skipped]:
    """Every study once, in the order of first appearance, and what is left: files there twice, or with no place.

    place  (study id, name of the view) of a file, or None where it is none, which is skipped for the reason `otherwise`
    """
    with contextlib.closing(spill.Groups()) as groups:
        for file in files:
            placed = place(file)
            if placed is None:
                yield Skipped(file.url, file.entry, otherwise)
            else:
                groups.add(placed[0], (placed[1], fields(file)))
        for study_id, views in groups:
            found: dict[str, File] = {}
            for name, of_file in views:
                file = file_of(of_file)
                if found.setdefault(name, file) is not file:
                    yield Skipped(file.url, file.entry, "duplicate_instance")
            yield Group(study_id, found)
