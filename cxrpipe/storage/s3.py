"""The functions of `cxrpipe.storage` for `s3://bucket/key`. boto3 finds endpoint, region and credentials.

The client (`s3_client`) retries requests. This module asks again, up to five times, where the body of an answer breaks
off.
"""

import contextlib
import io
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import boto3.exceptions
import botocore.exceptions
import pyarrow.fs as pafs
import urllib3.exceptions

from cxrpipe.errors import StoreError
from cxrpipe.storage.names import BUFFER_BYTES, Object
from cxrpipe.storage.s3_client import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, attempts, client, is_aws, translated

DENIED_FIRST = 50
"""After so many denials in a bucket that this process has never read, the credentials are at fault, not the objects."""
BODY_PAUSE_S = 0.2
"""Pause before a broken body is asked for again; doubled after each try."""
_BODY_TRIES = 5
_BROKEN_BODY = (
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.ReadTimeoutError,
    botocore.exceptions.FlexibleChecksumError,
    urllib3.exceptions.HTTPError,  # botocore does not translate TLS that breaks off
)


def listing(url: str, everything: bool = False) -> Iterator[Object]:
    """List objects. `everything` changes nothing: a bucket holds objects only."""
    with contextlib.suppress(PermissionError):  # some credentials may list a prefix and do nothing else
        if single := stat(url):
            yield single
            return
    yield from _below(url)


def _below(url: str) -> Iterator[Object]:
    return (listed for listed in _all_below(url) if not listed.url.endswith("/"))


def _all_below(url: str) -> Iterator[Object]:
    """List objects, including the empty ones by which other clients mark folders."""
    bucket, key = _bucket_key(url)
    prefix = key + "/" if key else ""
    with translated(url), contextlib.suppress(client().exceptions.NoSuchBucket):
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                yield Object(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'))


def folders(url: str) -> list[str]:
    bucket, key = _bucket_key(url)
    prefix = key + "/" if key else ""
    names: list[str] = []
    with translated(url), contextlib.suppress(client().exceptions.NoSuchBucket):
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
            names += (folder["Prefix"][len(prefix) : -1] for folder in page.get("CommonPrefixes", []))
    return sorted(names)


def stat(url: str) -> Object | None:
    bucket, key = _bucket_key(url)
    if not key:
        return None
    try:
        with translated(url):
            head = client().head_object(Bucket=bucket, Key=key)
    except FileNotFoundError:
        return None
    except PermissionError:
        _get(url, "bytes=0-0")  # a refused HEAD gives no reason; a GET says whether our credentials are at fault
        raise
    return Object(url, head["ContentLength"], head["ETag"].strip('"'))


def read(url: str, offset: int, length: int | None) -> bytes:
    if not offset and length is None:
        return _get(url, None)
    return _get(url, f"bytes={offset}-{'' if length is None else offset + length - 1}")


def open_seekable(url: str) -> BinaryIO:
    """Open an object as a stream. Each refill of its buffer is one ranged GET."""
    status = stat(url)
    if status is None:
        raise FileNotFoundError(f"{url}: not found")
    return io.BufferedReader(_RangeFile(url, status.size), BUFFER_BYTES)


def filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """Open pyarrow's filesystem with our credentials and limits.

    S3FileSystem() ignores AWS_ENDPOINT_URL (apache/arrow#49643), so the endpoint is passed to it. By default it gives
    up after three tries of three silent seconds; a busy store takes longer than that over a large checkpoint.
    """
    with translated(url):
        credentials = client()._request_signer._credentials
        if credentials is None:
            raise StoreError(f"{url}: no AWS credentials found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret")
        frozen = credentials.get_frozen_credentials()
    meta = client().meta
    store = pafs.S3FileSystem(
        access_key=frozen.access_key,
        secret_key=frozen.secret_key,
        session_token=frozen.token,
        region=meta.region_name,
        endpoint_override=None if is_aws(meta.endpoint_url) else meta.endpoint_url,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=READ_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts()),
    )
    return store, url.removeprefix("s3://")


def write(url: str, data: bytes) -> None:
    _put(url, data)


def write_new(url: str, data: bytes) -> bool:
    try:
        _put(url, data, IfNoneMatch="*")
    except FileExistsError:
        return _get(url, None) == data  # a first try wrote the object, and only its answer was lost
    return True


@contextlib.contextmanager
def filling(url: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as folder:
        path = Path(folder, "filled")
        yield path
        upload_file(path, url)


def upload_file(path: Path, url: str) -> None:
    bucket, key = _bucket_key(url)
    with translated(url):
        try:
            client().upload_file(str(path), bucket, key)
        except boto3.exceptions.S3UploadFailedError as error:
            raise error.__context__ or error from None  # S3UploadFailedError hides the ClientError


def delete(url: str) -> None:
    bucket, key = _bucket_key(url)
    with translated(url):
        client().delete_object(Bucket=bucket, Key=key)


def delete_below(url: str) -> None:
    for listed in list(_all_below(url)):
        delete(listed.url)


# ---- reading and writing -------------------------------------------------------------------------------------


def _bucket_key(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


_readable: dict[str, str] = {}  # bucket → an object that this process has read
_denied_first: Counter[str] = Counter()  # bucket → denials before that


def _get(url: str, byte_range: str | None) -> bytes:
    """Get one object or a range of it. PermissionError: this object is denied, while others can be read."""
    bucket, _ = _bucket_key(url)
    try:
        data = _get_whole(url, byte_range)
    except PermissionError:
        _check_access(bucket)
        raise
    _readable[bucket] = url
    return data


def _check_access(bucket: str) -> None:
    """Raise StoreError where access to the whole bucket was withdrawn, or was never granted.

    An object that could be read before is asked for again, to tell which of the two it is.
    """
    if bucket in _readable:
        try:
            _get_whole(_readable[bucket], "bytes=0-0")
        except PermissionError:
            raise StoreError(
                f"s3://{bucket}: access denied, also to {_readable[bucket]}, which could be read before; "
                "renew the credentials"
            ) from None
        except FileNotFoundError:
            pass
        return
    _denied_first[bucket] += 1
    if _denied_first[bucket] >= DENIED_FIRST:
        raise StoreError(
            f"s3://{bucket}: access denied {DENIED_FIRST} times, and no object could be read; check the credentials"
        )


def _get_whole(url: str, byte_range: str | None) -> bytes:
    """Get an object; ask again, with back-off, where the body breaks off."""
    bucket, key = _bucket_key(url)
    extra = {"Range": byte_range} if byte_range else {}
    for attempt in range(_BODY_TRIES):
        with translated(url):
            try:
                data: bytes = client().get_object(Bucket=bucket, Key=key, **extra)["Body"].read()
                return data
            except client().exceptions.ClientError as error:
                if error.response["Error"]["Code"] == "InvalidRange":  # the object ends before the range
                    return b""
                raise
            except _BROKEN_BODY:
                if attempt == _BODY_TRIES - 1:
                    raise
        time.sleep(BODY_PAUSE_S * 2**attempt)
    raise AssertionError("unreachable")


def _put(url: str, data: bytes, **condition: str) -> None:
    bucket, key = _bucket_key(url)
    with translated(url):
        client().put_object(Bucket=bucket, Key=key, Body=data, **condition)


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
