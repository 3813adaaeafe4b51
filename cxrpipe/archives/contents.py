"""Lists what is inside the containers of an archive: files, files that links lead to, and what is lost."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from cxrpipe import console, storage
from cxrpipe.archives.aside import why_aside
from cxrpipe.archives.containers.entries import entries
from cxrpipe.archives.containers.files import File, Link, Lost, plain_name
from cxrpipe.archives.kept import Previous
from cxrpipe.archives.listing import Listing
from cxrpipe.records import REASONS


class Contents:
    """Adds the entries of containers to a listing.

    archive      url of the archive: where it is itself a container, its entries keep their names
    seek_points  local folder that receives the seek points of tar.gz files
    opening      called with the url of every container before it is read, which can take minutes
    previous     the files of an earlier index; a container that has not changed since is not opened
    """

    def __init__(
        self,
        listing: Listing,
        archive: str,
        seek_points: Path,
        opening: Callable[[str], None],
        previous: Previous | None,
    ) -> None:
        self._listing = listing
        self._archive = archive
        self._seek_points = seek_points
        self._opening = opening
        self._previous = previous

    def add(self) -> dict[Lost, None]:
        """Add the entries of all containers; return what is lost, each once and in order."""
        for number, container in self._listing.containers():
            if self._previous and self._previous.has_unchanged(container, self._seek_points):
                self._previous.take_over_entries(number, container)
            else:
                self._open(number, container)
        facts = self._listing.learned_of_containers()
        return dict.fromkeys(Lost(*fields) for lost in facts for fields in json.loads(lost))

    def _open(self, number: int, container: File) -> None:
        self._opening(container.url)
        place = storage.Object(container.url, container.length, container.version)
        lost: list[Lost] = []
        links: list[Link] = []
        items = console.counted(entries(place, self._seek_points), f"reading {container.url}")
        self._listing.add_entries(number, self._files(container, items, lost, links))
        self._listing.add_entries(number, self._linked(number, container, lost, links))
        passing = any(one.reason in REASONS and REASONS[one.reason].retryable for one in lost)
        self._listing.learn(number, json.dumps(lost), passing)

    def _files(
        self, container: File, items: Iterable[File | Link | Lost], lost: list[Lost], links: list[Link]
    ) -> Iterator[tuple[File, str | None]]:
        """Yield the files of a container, and why they stand aside. Links and lost entries go into the lists."""
        for item in items:
            if isinstance(item, File):
                yield self._inside(container, item)
            elif isinstance(item, Link):
                links.append(item)
            elif item.entry is not None and why_aside(plain_name(item.entry)):
                yield self._inside(container, _without_content(container, item.entry))
            else:
                lost.append(item)

    def _linked(
        self, number: int, container: File, lost: list[Lost], links: list[Link]
    ) -> Iterator[tuple[File, str | None]]:
        """Yield the files that links lead to, under the names of the links. Other links are lost."""
        inside = [
            link._replace(
                name=self._name_inside(container, link.name),
                target=self._name_inside(container, link.target) if link.target else None,
            )
            for link in links
        ]
        for link, file in list(self._listing.linked(number, inside)):
            aside = why_aside(link.name)
            if file or aside:
                yield file or _without_content(container, link.entry), aside
            else:
                lost.append(Lost(container.url, link.entry, "link"))

    def _inside(self, container: File, file: File) -> tuple[File, str | None]:
        named = replace(file, name=self._name_inside(container, file.name))
        return named, why_aside(file.name) if file.name else "unusable_name"

    def _name_inside(self, container: File, name: str) -> str:
        """The name of an entry in the archive: behind that of its container, unless the container is the archive."""
        return name if container.url == self._archive else f"{container.name}/{name}"


def _without_content(container: File, entry: str) -> File:
    """An entry that is counted and never read."""
    return File(name=plain_name(entry), url=container.url, entry=entry, length=0, version="")
