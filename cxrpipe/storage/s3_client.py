"""The connection to an S3-speaking store: one client, and botocore's errors as ours.

The client tries a request up to nine times (AWS_MAX_ATTEMPTS), with back-off, where the store does not answer or
answers 5xx. The pauses of nine tries add up to 91 s at most, 45 s as a rule. A store that accepts connections and then
says nothing costs READ_TIMEOUT_S more for each try: ten minutes in all.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import urllib3.exceptions

from cxrpipe.errors import ConfigError, StoreError

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_FORBIDDEN = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled"}


@functools.cache
def client() -> Any:
    """The client of this process. Threads may share it."""
    session = boto3.session.Session()  # threads that make clients from boto3's default session disturb each other

    def make(**style: Any) -> Any:
        return session.client(
            "s3",
            config=botocore.config.Config(
                retries={"total_max_attempts": attempts(), "mode": "standard"},
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                max_pool_connections=32,
                **style,
            ),
        )

    try:
        made = make()
    except ValueError as error:
        raise ConfigError(f"{error}; expected AWS_ENDPOINT_URL like http://host:9000") from None
    # Self-hosted stores rarely answer to bucket.host names.
    return made if is_aws(made.meta.endpoint_url) else make(s3={"addressing_style": "path"})


def attempts() -> int:
    return int(os.environ.get("AWS_MAX_ATTEMPTS", 9))


def is_aws(endpoint: str) -> bool:
    return endpoint.endswith(".amazonaws.com")


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise botocore's errors as ours."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchBucket":
            raise ConfigError(f"{url}: the bucket does not exist") from None
        if code in _ABSENT:
            raise FileNotFoundError(f"{url}: not found ({code})") from None
        if code in _FORBIDDEN:
            raise PermissionError(f"{url}: access denied") from None
        if code in _TAKEN:
            raise FileExistsError(f"{url}: exists already") from None
        raise StoreError(f"{url}: the store answered {code or error}; check credentials and endpoint") from error
    except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError) as error:
        raise StoreError(f"{url}: the store cannot be used: {error}") from error
