"""URLs: `s3://bucket/key`, `file:///path` or a plain path. The one place that opens them.

Reading an absent object raises FileNotFoundError and a forbidden one PermissionError, on disk and on S3 alike;
a store that stays away after retries, or refuses our credentials, raises StoreError. Objects are written whole
or not at all. Endpoint, region and credentials of S3 are found as boto3 finds them.
"""

import contextlib
import functools
import io
import os
import shutil
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import boto3
import botocore.config
import botocore.exceptions
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cxrpipe.errors import ConfigError, StoreError

BUFFER_BYTES = 1 << 20
_BODY_TRIES = 5
_BROKEN_BODY = (
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.ReadTimeoutError,
)


class Object(NamedTuple):
    url: str
    size: int
    """Bytes."""
    version: str
    """Etag on S3, modification time on disk."""


# ---- names ----------------------------------------------------------------------------------------------------


def normalise(url: str) -> str:
    """`file:///x` and relative paths become absolute paths; `s3://` stays; a trailing slash goes."""
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


def is_s3(url: str) -> bool:
    return url.startswith("s3://")


def _bucket_key(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


# ---- S3 -------------------------------------------------------------------------------------------------------


@functools.cache
def _s3() -> Any:
    session = boto3.session.Session()  # its own: threads that make clients from boto3's default one trip each other

    def client(**style: Any) -> Any:
        return session.client(
            "s3",
            config=botocore.config.Config(
                retries={"total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", 9)), "mode": "standard"},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=32,
                **style,
            ),
        )

    try:
        found = client()
    except ValueError as error:
        raise ConfigError(f"{error}; AWS_ENDPOINT_URL should read like http://host:9000") from None
    # Self-hosted stores rarely answer to bucket.host names.
    return found if _is_aws(found) else client(s3={"addressing_style": "path"})


def _is_aws(client: Any) -> bool:
    return client.meta.endpoint_url.endswith(".amazonaws.com")


_ABSENT = {"NoSuchKey", "404", "NotFound"}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_FORBIDDEN = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled"}


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """botocore's errors as ours."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchBucket":
            raise ConfigError(f"{url}: there is no such bucket") from None
        if code in _ABSENT:
            raise FileNotFoundError(f"{url}: not found ({code})") from None
        if code in _FORBIDDEN:
            raise PermissionError(f"{url}: access denied") from None
        if code in _TAKEN:
            raise FileExistsError(f"{url}: exists") from None
        raise StoreError(f"{url}: the store answered {code or error}; check credentials and endpoint") from error
    except botocore.exceptions.BotoCoreError as error:
        raise StoreError(f"{url}: the store cannot be used: {error}") from error


def _get(url: str, byte_range: str | None) -> bytes:
    """One object or a range of it; a body that breaks off is asked for again, with back-off."""
    bucket, key = _bucket_key(url)
    extra = {"Range": byte_range} if byte_range else {}
    for attempt in range(_BODY_TRIES):
        with _translated(url):
            try:
                return _s3().get_object(Bucket=bucket, Key=key, **extra)["Body"].read()
            except _s3().exceptions.ClientError as error:
                if error.response["Error"]["Code"] == "InvalidRange":  # the object ends before the range
                    return b""
                raise
            except _BROKEN_BODY:
                if attempt == _BODY_TRIES - 1:
                    raise
        time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


class _RangeFile(io.RawIOBase):
    """A seekable, read-only file over ranged GETs; wrap it in a BufferedReader."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._position = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = read(self._url, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


# ---- reading --------------------------------------------------------------------------------------------------


def listing(url: str) -> Iterator[Object]:
    """The object at `url`, or every object below it, in S3's order of names. None: nothing is there.

    On disk links to files are followed, links to folders are not; one that leads nowhere is an object that is missing.
    """
    if is_s3(url):
        yield from _s3_listing(url)
        return
    path = Path(url)
    if path.is_file():
        yield _local_object(path)
    elif path.is_dir():
        yield from _local_listing(path)


def _local_listing(folder: Path) -> Iterator[Object]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _local_listing(Path(entry.path))
        elif entry.is_file():
            yield _local_object(Path(entry.path))
        elif entry.is_symlink() and not entry.is_dir():
            yield Object(entry.path, 0, "")


def _local_object(path: Path) -> Object:
    status = path.stat()
    return Object(str(path), status.st_size, str(status.st_mtime_ns))


def _s3_listing(url: str) -> Iterator[Object]:
    with contextlib.suppress(PermissionError):  # some may list a prefix and ask for nothing else
        if found := stat(url):
            yield found
            return
    yield from _s3_below(url)


def _s3_below(url: str) -> Iterator[Object]:
    bucket, key = _bucket_key(url)
    prefix = key + "/" if key else ""
    with _translated(url), contextlib.suppress(_s3().exceptions.NoSuchBucket):
        for page in _s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    yield Object(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'))


def stat(url: str) -> Object | None:
    """The object at `url`, or None where there is none."""
    if not is_s3(url):
        path = Path(url)
        return _local_object(path) if path.is_file() else None
    bucket, key = _bucket_key(url)
    if not key:
        return None
    try:
        with _translated(url):
            head = _s3().head_object(Bucket=bucket, Key=key)
    except FileNotFoundError:
        return None
    except PermissionError:
        _get(url, "bytes=0-0")  # a HEAD is refused without a word; a GET says whether our credentials are at fault
        raise
    return Object(url, head["ContentLength"], head["ETag"].strip('"'))


def read(url: str, offset: int = 0, length: int | None = None) -> bytes:
    """Bytes `offset` to `offset + length`, or to the end. Shorter where the object is."""
    if length == 0:
        return b""
    if is_s3(url):
        if not offset and length is None:
            return _get(url, None)
        return _get(url, f"bytes={offset}-{'' if length is None else offset + length - 1}")
    with _open_local(url) as file:
        file.seek(offset)
        return file.read(-1 if length is None else length)


def _open_local(url: str) -> BinaryIO:
    try:
        return open(url, "rb", buffering=BUFFER_BYTES)
    except (IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(f"{url}: not a file") from None


def open_seekable(url: str) -> BinaryIO:
    """A buffered, seekable stream; on S3 each refill is one ranged GET."""
    if not is_s3(url):
        return _open_local(url)
    found = stat(url)
    if found is None:
        raise FileNotFoundError(f"{url}: not found")
    return io.BufferedReader(_RangeFile(url, found.size), BUFFER_BYTES)


def read_table(url: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet object, or some of its columns."""
    with open_seekable(url) as stream:
        return pq.read_table(stream, columns=columns)


def filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """What pyarrow, Ray Data and Ray Train want: a filesystem, and the path in it.

    S3FileSystem() on its own ignores AWS_ENDPOINT_URL (apache/arrow#49643), so all is handed over.
    """
    if not is_s3(url):
        return pafs.LocalFileSystem(), url
    with _translated(url):
        client = _s3()
        credentials = client._request_signer._credentials
        if credentials is None:
            raise StoreError(f"{url}: no AWS credentials found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret")
        frozen = credentials.get_frozen_credentials()
    store = pafs.S3FileSystem(
        access_key=frozen.access_key,
        secret_key=frozen.secret_key,
        session_token=frozen.token,
        region=client.meta.region_name,
        endpoint_override=None if _is_aws(client) else client.meta.endpoint_url,
    )
    return store, url.removeprefix("s3://")


# ---- writing --------------------------------------------------------------------------------------------------


def write(url: str, data: bytes) -> None:
    """Write the object whole: on disk through a temporary name, on S3 by one PUT."""
    if is_s3(url):
        bucket, key = _bucket_key(url)
        with _translated(url):
            _s3().put_object(Bucket=bucket, Key=key, Body=data)
        return
    path = Path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_new(url: str, data: bytes) -> bool:
    """Write the object unless there is one; of many who try at once, one succeeds."""
    if is_s3(url):
        bucket, key = _bucket_key(url)
        try:
            with _translated(url):
                _s3().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except FileExistsError:
            return False
        return True
    path = Path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_bytes(data)
    try:
        os.link(temporary, path)  # unlike O_EXCL it never shows a file that is not whole yet
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def upload_file(path: Path, url: str) -> None:
    """Copy one local file to `url`, whole."""
    if is_s3(url):
        bucket, key = _bucket_key(url)
        with _translated(url):
            _s3().upload_file(str(path), bucket, key)
        return
    target = Path(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(path, temporary)
    temporary.replace(target)


def upload(folder: Path, url: str) -> None:
    """Copy every file below a local folder to below `url`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            upload_file(path, join(url, path.relative_to(folder).as_posix()))


def delete(url: str) -> None:
    """Remove one object; none there is no error."""
    if is_s3(url):
        bucket, key = _bucket_key(url)
        with _translated(url):
            _s3().delete_object(Bucket=bucket, Key=key)
    else:
        Path(url).unlink(missing_ok=True)


def delete_below(url: str) -> None:
    """Remove every object below `url`; links go, what they lead to stays."""
    if is_s3(url):
        for found in list(_s3_below(url)):
            delete(found.url)
    elif Path(url).is_dir():
        shutil.rmtree(url)
