"""The server that the other tests rely on does what S3 does, where our code depends on it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
import s3server
from botocore.exceptions import ClientError
from s3server import S3Server, answers, free_port

pytestmark = pytest.mark.s3

own_server_only = pytest.mark.skipif("CXR_S3_ENDPOINT" in os.environ, reason="an external server is not ours to kill")


@pytest.fixture
def killable_server(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path) as server:
        yield server


def test_what_was_put_comes_back(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.boto()
    client.put_object(Bucket=bucket, Key="a/b.bin", Body=b"radiograph")
    assert client.get_object(Bucket=bucket, Key="a/b.bin")["Body"].read() == b"radiograph"


def test_a_byte_range_comes_back_without_the_rest(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.boto()
    client.put_object(Bucket=bucket, Key="archive.tar", Body=bytes(range(256)))
    answer = client.get_object(Bucket=bucket, Key="archive.tar", Range="bytes=100-103")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert answer["Body"].read() == bytes([100, 101, 102, 103])


def test_a_listing_in_pages_holds_every_key_under_its_prefix_and_no_other(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.boto()
    expected = [f"cxr/{number:02}.png" for number in range(7)]
    for key in [*expected, "cxr-other/00.png"]:
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix="cxr/", PaginationConfig={"PageSize": 3}
    )
    assert [entry["Key"] for page in pages for entry in page["Contents"]] == expected


def test_one_of_many_writers_with_if_none_match_wins_and_its_bytes_stay(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.boto()

    def claim(writer: int) -> str:
        try:
            client.put_object(Bucket=bucket, Key="lock", Body=b"%d" % writer, IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "won"

    with ThreadPoolExecutor(max_workers=8) as pool:
        outcomes = list(pool.map(claim, range(8)))
    assert outcomes.count("won") == 1
    assert set(outcomes) <= {"won", "PreconditionFailed", "ConditionalRequestConflict"}
    assert client.get_object(Bucket=bucket, Key="lock")["Body"].read() == b"%d" % outcomes.index("won")


def test_what_pyarrow_writes_boto3_reads(s3_server: S3Server, bucket: str) -> None:
    """pyarrow frames its uploads (aws-chunked, a checksum trails); some servers store the frames."""
    content = bytes(100_000)
    with s3_server.arrow().open_output_stream(f"{bucket}/part.parquet") as stream:
        stream.write(content)
    assert s3_server.boto().get_object(Bucket=bucket, Key="part.parquet")["Body"].read() == content


@pytest.mark.usefixtures("s3_env")
def test_the_environment_alone_leads_a_client_to_the_server(bucket: str) -> None:
    assert bucket in [entry["Name"] for entry in boto3.client("s3").list_buckets()["Buckets"]]


@own_server_only
def test_what_was_acknowledged_survives_kill_9(killable_server: S3Server) -> None:
    client = killable_server.boto()
    client.create_bucket(Bucket="cxr")
    client.put_object(Bucket="cxr", Key="run.json", Body=b"{}")
    killable_server.kill()
    killable_server.start()
    assert client.get_object(Bucket="cxr", Key="run.json")["Body"].read() == b"{}"


@own_server_only
@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_the_server_dies_with_a_parent_that_was_killed_with_kill_9(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, s3server.__file__, str(tmp_path), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith(b"export AWS_ENDPOINT_URL=")
        assert answers(port)
        parent.kill()
    deadline = time.monotonic() + 10
    while answers(port) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not answers(port)


@own_server_only
def test_a_missing_server_program_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3server, "EXECUTABLE", tmp_path / "ministack")
    with pytest.raises(FileNotFoundError, match=r"run `make \.venv-s3`"):
        S3Server(tmp_path).start()
