"""One contract for disk and S3: what is read, listed, written and refused does not depend on where it lies."""

import errno
import http.server
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from cxrpipe import storage
from cxrpipe.errors import ConfigError, StoreError
from cxrpipe.storage import join, s3


def put(url: str, *names: str) -> None:
    """Objects that hold their own name."""
    for name in names:
        storage.write(join(url, name), name.encode())


def names(url: str) -> list[str]:
    return [found.url.removeprefix(url + "/") for found in storage.listing(url)]


# --- Listing ---


def test_a_listing_is_in_the_order_of_whole_names(anywhere):
    put(anywhere, "b.png", "a/c/d.png", "a/b.png", "a.png", "a-1.png", "ä.png", "B.png")
    assert names(anywhere) == ["B.png", "a-1.png", "a.png", "a/b.png", "a/c/d.png", "b.png", "ä.png"]


def test_a_listing_leaves_out_neighbours_whose_names_begin_alike(anywhere):
    put(anywhere, "a/b/x", "a/bc/x", "a/b.png")
    assert names(join(anywhere, "a/b")) == ["x"]


def test_a_listing_tells_the_sizes(anywhere):
    put(anywhere, "a", "abc")
    assert [found.size for found in storage.listing(anywhere)] == [1, 3]


def test_the_listing_of_an_object_is_that_object(anywhere):
    put(anywhere, "a.png")
    assert list(storage.listing(join(anywhere, "a.png"))) == [storage.stat(join(anywhere, "a.png"))]


def test_folders_are_named_without_what_is_in_them(anywhere):
    for name in ("b/x/1.png", "b/2.png", "a/3.png", "4.png"):
        storage.write(storage.join(anywhere, name), b"x")
    assert storage.folders(anywhere) == ["a", "b"]
    assert storage.folders(storage.join(anywhere, "b")) == ["x"]
    assert storage.folders(storage.join(anywhere, "nowhere")) == []


def test_a_listing_of_nothing_is_empty(anywhere):
    assert names(join(anywhere, "absent")) == []


@pytest.mark.s3
def test_a_bucket_that_does_not_exist_lists_nothing(s3_env):
    assert names("s3://no-such-bucket-here") == []


def test_links_to_files_are_listed_and_links_to_folders_are_not_entered(tmp_path):
    put(str(tmp_path), "elsewhere/x", "here/a")
    (tmp_path / "here" / "file").symlink_to(tmp_path / "elsewhere" / "x")
    (tmp_path / "here" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")
    assert names(str(tmp_path / "here")) == ["a", "file"]


def test_a_link_that_leads_nowhere_is_listed_and_cannot_be_read(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    [found] = storage.listing(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        storage.read(found.url)


def test_what_is_no_file_is_not_listed(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    assert names(str(tmp_path)) == []


# --- Reading ---

CONTENT = random.Random(0).randbytes(storage.BUFFER_BYTES + 100_017)


@pytest.fixture
def content(anywhere: str) -> str:
    storage.write(join(anywhere, "content"), CONTENT)
    return join(anywhere, "content")


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (0, 10),
        (5, 10),
        (1_000_000, None),
        (len(CONTENT) - 5, 5),
        (len(CONTENT) - 5, 500),
        (len(CONTENT), 1),
        (len(CONTENT) + 10, 10),
        (len(CONTENT) + 10, None),
        (3, 0),
    ],
)
def test_a_range_is_read_as_far_as_the_object_goes(content, offset, length):
    end = None if length is None else offset + length
    assert storage.read(content, offset, length) == CONTENT[offset:end]


def test_an_empty_object_is_read_as_nothing(anywhere):
    storage.write(join(anywhere, "empty"), b"")
    assert storage.read(join(anywhere, "empty")) == storage.read(join(anywhere, "empty"), 0, 5) == b""


def test_a_seekable_stream_gives_the_bytes_wherever_one_looks(content):
    places = random.Random(1)
    with storage.open_seekable(content) as stream:
        for length in (1, 70_000, 512, 1_500_000, 512, 1, 70_000, 512):
            offset = places.randrange(len(CONTENT) + 99)
            stream.seek(offset)
            assert stream.tell() == offset
            assert stream.read(length) == CONTENT[offset : offset + length]
        stream.seek(-7, os.SEEK_END)
        assert stream.read() == CONTENT[-7:]


@pytest.mark.parametrize("reader", [storage.read, storage.open_seekable])
@pytest.mark.parametrize("name", ["absent", "folder", "folder/file/deeper"])
def test_what_is_not_there_raises_file_not_found(anywhere, reader, name):
    put(anywhere, "folder/file")
    with pytest.raises(FileNotFoundError):
        reader(join(anywhere, name))


@pytest.mark.parametrize("name", ["absent", "folder", ""])
def test_there_is_no_stat_of_what_is_no_object(anywhere, name):
    put(anywhere, "folder/file")
    assert storage.stat(join(anywhere, name).rstrip("/")) is None


def test_another_content_has_another_version(anywhere):
    storage.write(join(anywhere, "x"), b"one")
    before = storage.stat(join(anywhere, "x"))
    storage.write(join(anywhere, "x"), b"two")
    assert storage.stat(join(anywhere, "x")).version != before.version


def test_pyarrow_reads_what_was_written_through_its_filesystem(anywhere):
    store, path = storage.filesystem(anywhere)
    store.create_dir(path)
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), f"{path}/t.parquet", filesystem=store)
    assert storage.read_table(join(anywhere, "t.parquet"), ["b"]).to_pydict() == {"b": ["x", "y"]}


# --- Writing ---


def test_a_writer_replaces_the_whole_object_and_leaves_nothing_else(anywhere):
    for content in (b"a longer first content", b"second"):
        storage.write(join(anywhere, "x"), content)
    assert storage.read(join(anywhere, "x")) == b"second"
    assert names(anywhere) == ["x"]


def test_a_reader_never_sees_half_of_a_write(anywhere):
    url, contents = join(anywhere, "x"), [bytes([number]) * 300_000 for number in range(2)]
    storage.write(url, contents[0])
    done = threading.Event()

    def write() -> None:
        for number in range(20):
            storage.write(url, contents[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert storage.read(url) in contents
    writer.join()


def test_a_file_that_is_being_filled_is_there_when_it_is_whole_and_only_then(anywhere):
    url = storage.join(anywhere, "filled")
    with storage.filling(url) as path:
        path.write_bytes(b"whole")
        assert storage.stat(url) is None
    assert storage.read(url) == b"whole"
    with pytest.raises(FileNotFoundError), storage.filling(url):
        Path("nowhere").read_bytes()
    assert storage.read(url) == b"whole"
    assert [found.url for found in storage.listing(anywhere)] == [url]


def test_a_folder_is_uploaded_with_all_that_lies_below(anywhere, tmp_path):
    put(str(tmp_path / "made"), "a", "b/c/d")
    storage.upload(tmp_path / "made", anywhere)
    assert [(found, storage.read(join(anywhere, found))) for found in names(anywhere)] == [
        ("a", b"a"),
        ("b/c/d", b"b/c/d"),
    ]


def test_deleting_what_is_absent_is_no_error(anywhere):
    put(anywhere, "x")
    for _ in range(2):
        storage.delete(join(anywhere, "x"))
    assert names(anywhere) == []


def test_delete_below_spares_the_neighbours(anywhere):
    put(anywhere, "a/x", "a/b/y", "ab/z", "a.png")
    storage.delete_below(join(anywhere, "a"))
    assert names(anywhere) == ["a.png", "ab/z"]
    storage.delete_below(join(anywhere, "a"))


def test_delete_below_leaves_no_folder(anywhere):
    """On S3 pyarrow, and with it Ray, marks folders by empty objects."""
    store, path = storage.filesystem(join(anywhere, "a"))
    store.create_dir(f"{path}/empty")
    storage.delete_below(join(anywhere, "a"))
    assert store.get_file_info(path).type is pafs.FileType.NotFound


def test_delete_below_spares_what_links_lead_to(tmp_path):
    put(str(tmp_path), "kept/x", "gone/y")
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "kept")
    storage.delete_below(str(tmp_path / "gone"))
    assert names(str(tmp_path)) == ["kept/x"]


# --- Names ---


def test_urls_are_absolute_and_end_without_a_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    given = ["x/", "./x/../y", "/a//b", "file:///a/b%20c/", "~/x", "s3://bucket/a/", "s3://bucket"]
    assert [storage.normalise(url) for url in given] == [
        f"{tmp_path}/x",
        f"{tmp_path}/y",
        "/a/b",
        "/a/b c",
        "/home/ada/x",
        "s3://bucket/a",
        "s3://bucket",
    ]


@pytest.mark.parametrize("url", ["http://host/x", "gs://bucket/x", "s3://", "s3:///key"])
def test_a_url_that_is_neither_path_nor_bucket_is_refused_by_name(url):
    with pytest.raises(ConfigError, match=url):
        storage.normalise(url)


# --- Stores that refuse or stay away ---

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def new_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a client made for this test, which does not ask twice; this process has read nothing yet."""
    monkeypatch.setattr("cxrpipe.storage.s3._readable", {})
    monkeypatch.setattr("cxrpipe.storage.s3._denied_first", Counter())
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    s3.client.cache_clear()
    yield monkeypatch
    s3.client.cache_clear()


@pytest.fixture
def store(new_client: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], None]]:
    """Starts a store that gives one answer to everything."""
    servers = []

    def start(answer: Answer) -> None:
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,), {"log_message": lambda *_: None})
        for method in ("do_GET", "do_HEAD", "do_PUT"):
            setattr(handler, method, lambda request: answer(request))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[0].serve_forever, kwargs={"poll_interval": 0.01}).start()
        new_client.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers[0].server_port}")
        new_client.setenv("AWS_ACCESS_KEY_ID", "someone")
        new_client.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(request: http.server.BaseHTTPRequestHandler, status: int, body: str) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body.encode())


def refusal(status: int, code: str) -> Answer:
    """As S3 refuses: a HEAD without a word, all else with a code."""
    return lambda request: reply(
        request, status, "" if request.command == "HEAD" else f"<Error><Code>{code}</Code></Error>"
    )


USES: dict[str, Callable[[str], object]] = {
    "read": storage.read,
    "stat": storage.stat,
    "open": storage.open_seekable,
    "list": lambda url: list(storage.listing(url)),
    "write": lambda url: storage.write(url, b"x"),
}


def outcome(use: Callable[[str], object]) -> str:
    """What using an object raises: the error's name and message."""
    try:
        use("s3://bucket/x")
    except (PermissionError, StoreError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize(
    ("status", "code"), [(403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch"), (400, "ExpiredToken")]
)
def test_refused_credentials_are_no_fault_of_an_object(store, status, code):
    store(refusal(status, code))
    for name, use in USES.items():
        assert outcome(use).startswith("StoreError: s3://bucket/x: the store answered"), name
        assert outcome(use).endswith("check credentials and endpoint"), name


def test_a_forbidden_object_raises_permission_error(store):
    store(refusal(403, "AccessDenied"))
    for name, use in USES.items():
        if name == "write":
            assert outcome(use).startswith("StoreError: s3://bucket/x: cannot be written"), name
        else:
            assert outcome(use) == "PermissionError: s3://bucket/x: access denied", name


def test_a_store_that_throttles_to_the_end_is_a_store_error(store):
    store(refusal(503, "SlowDown"))
    for name, use in USES.items():
        assert outcome(use).startswith("StoreError: s3://bucket/x: the store answered"), name


def test_a_store_that_cannot_be_reached_is_a_store_error(store, new_client):
    store(refusal(500, "unused"))
    new_client.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name, use in USES.items():
        assert outcome(use).startswith("StoreError: s3://bucket/x: the store cannot be used"), name


def test_a_prefix_is_listed_page_by_page_even_where_its_objects_are_forbidden(store):
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if "list-type" not in request.path:
            return refusal(403, "AccessDenied")(request)
        last = "continuation-token" in request.path
        more = "" if last else "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
        entry = f"<Contents><Key>x/{1 + last}</Key><Size>1</Size><ETag>e</ETag></Contents>"
        return reply(request, 200, f"<ListBucketResult>{more}{entry}</ListBucketResult>")

    store(answer)
    assert names("s3://bucket/x") == ["1", "2"]


def test_a_body_that_breaks_off_is_asked_for_again(store):
    bodies = [b"ha", b"half", b"half of it"]

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "10")
        request.end_headers()
        request.wfile.write(bodies.pop(0))
        request.close_connection = True

    store(answer)
    assert storage.read("s3://bucket/x") == b"half of it"


def test_missing_credentials_are_named(new_client):
    for use in (storage.read, storage.filesystem):
        with pytest.raises(StoreError, match="credentials"):
            use("s3://bucket/x")


@pytest.mark.slow
def test_pyarrow_waits_for_a_busy_store(store):
    """Its own limit is three silent seconds, and an upload that failed by it can end well, without its object."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        time.sleep(5)
        request.send_response(200)
        request.send_header("Content-Length", "3")
        request.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        request.end_headers()

    store(answer)
    files, path = storage.filesystem("s3://bucket/x")
    assert files.get_file_info(path).size == 3


def test_an_unknown_profile_is_named(new_client):
    new_client.setenv("AWS_PROFILE", "radiology")
    with pytest.raises(StoreError, match="radiology"):
        storage.filesystem("s3://bucket/x")


def test_an_endpoint_without_its_scheme_is_refused(new_client):
    new_client.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(ConfigError, match=r"localhost:9000.*http://"):
        storage.read("s3://bucket/x")


@pytest.mark.parametrize("name", ["file", "file/below", "folder", "x" * 300])
def test_a_place_where_no_file_can_be_is_a_wrong_request(name, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    place = f"{tmp_path}/{name}/x" if name == "file" else f"{tmp_path}/{name}"
    with pytest.raises(ConfigError, match=r"no place for a file .*; name another"):
        storage.write(place, b"x")


def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(path: Path, data: bytes) -> None:
        path.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"x.bin: cannot be written \(No space left on device\)"):
        storage.write(str(tmp_path / "x.bin"), b"data")
    assert not [*tmp_path.iterdir()]
