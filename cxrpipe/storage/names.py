"""Objects of a store, and the form of their URLs."""

import os
import urllib.parse
from typing import NamedTuple

from cxrpipe.errors import ConfigError

BUFFER_BYTES = 1 << 20
"""Size of a stream's buffer. On S3 one GET fetches at least this much."""


class Object(NamedTuple):
    """One object of a store, as a listing shows it."""

    url: str
    size: int
    """Bytes."""
    version: str
    """Etag on S3, modification time on disk."""
    kind: str = ""
    """Empty for a file. `listing(everything=True)` also gives `link` (to a folder), `special_file`, and `denied` (a
    folder that may not be listed)."""


def normalise(url: str) -> str:
    """Make `file:///x` and relative paths absolute paths. `s3://` stays, and a trailing slash is dropped."""
    if url.startswith("s3://"):
        if not url.removeprefix("s3://").partition("/")[0]:
            raise ConfigError(f"{url}: names no bucket; expected s3://bucket/prefix")
        return url.rstrip("/")
    if url.startswith("file://"):
        url = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    elif "://" in url:
        raise ConfigError(f"{url}: expected s3://bucket/prefix, file:///path or a plain path")
    return os.path.abspath(os.path.expanduser(url))


def join(url: str, *parts: str) -> str:
    return "/".join([url.rstrip("/"), *parts])


def last_part(url: str) -> str:
    """The name of a file or folder: what follows the last slash."""
    return url.rstrip("/").rpartition("/")[2]


def is_s3(url: str) -> bool:
    return url.startswith("s3://")
