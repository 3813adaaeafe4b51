"""The files that one's own table names, by their paths: relative to the table, absolute, or URLs."""

import contextlib
import itertools
import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace

from cxrpipe import storage
from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.csv_files import Row
from cxrpipe.errors import ConfigError

_FEW = 100
"""Objects that are asked for one by one."""


def path_of(row: Row, column: str) -> str:
    """The path in a cell, in one spelling, with `/` between folders; ConfigError where only Windows could open it."""
    path = row[column].replace("\\", "/")
    if re.match(r"[A-Za-z]:", path) or path.startswith("//"):
        raise ConfigError(
            f"{row.where}: {column} {row[column]!r} is a place on a Windows machine; expected a path relative to the "
            "table, such as images/1.png"
        )
    return path if "://" in path else posixpath.normpath(path)


class Objects:
    """Places, sizes and versions of the files that a table names. One that is not there has no version: `missing`.

    Where the archive is the folder or the container that holds the table, the catalogue has listed what lies beside
    it, inside containers too. Other objects are asked for. A store answers a thousand names at once, where it is asked
    for a listing; one by one it takes 20 ms each. So the folder that holds all of them is listed, unless most of what
    it holds is something else.
    """

    def __init__(self, catalogue: Catalogue, table: File, paths: Iterable[str]) -> None:
        self._folder = table.url.rpartition("/")[0]
        self._name_of_folder = table.name.rpartition("/")[0]
        every = set(paths)
        names = {self._name(path) for path in every}
        self._beside = {file.name: file for file in catalogue.files() if file.name in names}
        self._listed: dict[str, storage.Object] = {}
        wanted = {self._url(path) for path in every if self._name(path) not in self._beside}
        if len(wanted) < _FEW or not all(map(storage.is_s3, wanted)):
            return
        common = os.path.commonprefix(list(wanted)).rpartition("/")[0]  # noqa: RUF071  # commonpath breaks `s3://`
        with contextlib.suppress(PermissionError, ConfigError):  # no bucket in common, or one that may not be listed
            for found in itertools.islice(storage.listing(storage.normalise(common)), 10 * len(wanted)):
                if found.url in wanted:
                    self._listed[found.url] = found

    def file(self, path: str) -> File:
        if beside := self._beside.get(self._name(path)):
            return replace(beside, name=path)
        url = self._url(path)
        try:
            found = self._listed.get(url) or storage.stat(url) or storage.Object(url, 0, "")
        except PermissionError:
            found = storage.Object(url, 0, "denied")
        return File(name=path, url=url, length=found.size, version=found.version)

    def refuse_another_machine(self, rows: Iterable[Row]) -> None:
        """ConfigError where a table names absolute paths, and nothing is at any of them."""
        absolute = [row for row in rows if row["path"].startswith("/")]
        if absolute and not any(self.file(row["path"]).version for row in absolute):
            raise ConfigError(
                f"{absolute[0].where}: nothing is at the path {absolute[0]['path']!r}, nor at any other absolute path "
                f"of the table; expected paths relative to the table, which lies in {self._folder}"
            )

    def _name(self, path: str) -> str:
        """What the catalogue calls a file beside the table; empty for one elsewhere."""
        if "://" in path or path.startswith("/"):
            return ""
        return posixpath.normpath(posixpath.join(self._name_of_folder, path))  # may begin with `..`

    def _url(self, path: str) -> str:
        if "://" in path or path.startswith("/"):
            return storage.normalise(path)
        scheme, slashes, place = self._folder.rpartition("//")  # `s3:`, `//`, `bucket/prefix`
        return scheme + slashes + posixpath.normpath(f"{place}/{path}")
