"""Finds the files that a user's table names by their paths: relative to the table, absolute, or URLs."""

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
"""Fewer objects than this are asked for one by one."""


def path_of(row: Row, column: str) -> str:
    """Normalise the path in a cell, with `/` between folders. ConfigError where only Windows could open the path."""
    path = row[column].replace("\\", "/")
    if re.match(r"[A-Za-z]:", path) or path.startswith("//"):
        raise ConfigError(
            f"{row.where}: {column} {row[column]!r} is a place on a Windows machine; expected a path relative to the "
            "table, such as images/1.png"
        )
    return path if "://" in path else posixpath.normpath(path)


class Objects:
    """Places, sizes and versions of the files that a table names. A missing file has an empty version.

    Where the archive is the folder or the container that holds the table, the catalogue has listed the files beside the
    table, those in containers included. The store is asked for other files. A listing gives a thousand names at once,
    while a request for one object takes 20 ms. So the folder that holds all of these files is listed, unless it holds
    ten times as many others.
    """

    def __init__(self, catalogue: Catalogue, table: File, paths: Iterable[str]) -> None:
        self._folder = table.url.rpartition("/")[0]
        self._name_of_folder = table.name.rpartition("/")[0]
        named = set(paths)
        names = {self._name(path) for path in named}
        self._beside = {file.name: file for file in catalogue.files() if file.name in names}
        self._listed: dict[str, storage.Object] = {}
        wanted = {self._url(path) for path in named if self._name(path) not in self._beside}
        if len(wanted) < _FEW or not all(map(storage.is_s3, wanted)):
            return
        common = os.path.commonprefix(list(wanted)).rpartition("/")[0]  # noqa: RUF071  # commonpath breaks `s3://`
        with contextlib.suppress(PermissionError, ConfigError):  # no common bucket, or it may not be listed
            for listed in itertools.islice(storage.listing(storage.normalise(common)), 10 * len(wanted)):
                if listed.url in wanted:
                    self._listed[listed.url] = listed

    def file(self, path: str) -> File:
        """Return the file at a path of the table, named by that path."""
        if beside := self._beside.get(self._name(path)):
            return replace(beside, name=path)
        url = self._url(path)
        try:
            place = self._listed.get(url) or storage.stat(url) or storage.Object(url, 0, "")
        except PermissionError:
            place = storage.Object(url, 0, "denied")
        return File(name=path, url=url, length=place.size, version=place.version)

    def refuse_another_machine(self, rows: Iterable[Row]) -> None:
        """Raise ConfigError where a table names absolute paths, and none of them exists here."""
        absolute = [row for row in rows if row["path"].startswith("/")]
        if absolute and not any(self.file(row["path"]).version for row in absolute):
            raise ConfigError(
                f"{absolute[0].where}: nothing is at the path {absolute[0]['path']!r}, nor at any other absolute path "
                f"of the table; expected paths relative to the table, which lies in {self._folder}"
            )

    def _name(self, path: str) -> str:
        """Name in the catalogue of a file beside the table; empty for a file elsewhere."""
        if "://" in path or path.startswith("/"):
            return ""
        return posixpath.normpath(posixpath.join(self._name_of_folder, path))  # may begin with `..`

    def _url(self, path: str) -> str:
        if "://" in path or path.startswith("/"):
            return storage.normalise(path)
        scheme, slashes, place = self._folder.rpartition("//")  # `s3:`, `//`, `bucket/prefix`
        return scheme + slashes + posixpath.normpath(f"{place}/{path}")
