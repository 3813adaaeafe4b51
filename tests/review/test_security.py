"""Who is answered by the reading room: the token, the cookie, the Host, the Origin and the size of a request."""

import re

import pytest
from reading_room import Browser, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cxrpipe.review.access_log import AccessLog
from cxrpipe.review.door import Door
from cxrpipe.review.security import LONGEST_BODY, Guard


async def page(request: Request) -> Response:
    csrf = request.state.csrf
    return PlainTextResponse(f'page {request.url.query} <meta name="csrf" content="{csrf}">')


async def taken(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())} bytes")


APP = Starlette(routes=[Route("/studies", page), Route("/verdicts", taken, methods=["POST"])])
PORT_OF_DOOR = 8400


def guarded(door: Door) -> Guard:
    return Guard(APP, door, ["127.0.0.1", "localhost"])


@pytest.fixture(scope="module")
def door():
    return Door(PORT_OF_DOOR)


@pytest.fixture(scope="module")
def port(door):
    with served(guarded(door)) as port:
        yield port


@pytest.fixture
def stranger(port):
    return Browser(port)


@pytest.fixture
def reader(port, door):
    """A browser that is in, and has opened a page."""
    browser = Browser(port)
    browser.enter(f"http://127.0.0.1/?token={door.token}")
    browser.get("/studies")
    return browser


def test_the_token_becomes_a_strict_cookie_and_leaves_the_address(stranger, door):
    answer = stranger.get(f"/studies?finding=Mass&token={door.token}&page=2")
    assert answer.status == 303
    assert answer.headers["location"] == "/studies?finding=Mass&page=2"
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert door.token not in answer.headers["set-cookie"]


def test_the_cookie_opens_pages(reader):
    answer = reader.get("/studies")
    assert (answer.status, answer.text[:4]) == (200, "page")


@pytest.mark.parametrize("query", ["", "?token=wrong", "?token=", "?token=%00%ff%F0%9F%98%80"])
def test_without_the_right_token_a_page_says_what_to_do(stranger, query):
    answer = stranger.get(f"/studies{query}")
    assert answer.status == 403
    assert "Open the whole address that stands in the terminal" in answer.text
    assert "set-cookie" not in answer.headers


def test_a_cookie_that_was_changed_opens_nothing(reader, port):
    forged = Browser(port)
    for place in (0, 30, -1):
        name, _, value = reader.cookie.partition("=")
        changed = list(value)
        changed[place] = "A" if changed[place] != "A" else "B"
        forged.cookie = f"{name}={''.join(changed)}"
        assert forged.get("/studies").status == 403


def test_a_session_ends_after_a_day(door, monkeypatch):
    session = door.new_session()
    assert door.knows(session)
    monkeypatch.setattr("time.time", lambda: int(session.split(".")[1]) + 24 * 3600 + 1)
    assert not door.knows(session)


def test_the_cookie_of_another_start_opens_nothing(reader):
    name, _, value = reader.cookie.partition("=")
    other = Door(PORT_OF_DOOR)
    assert name == other.cookie
    assert not other.knows(value)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8400", "", "evil.example:127.0.0.1", "[::1"])
def test_a_request_for_another_host_is_refused(reader, host):
    answer = reader.get("/studies", Host=host)
    assert answer.status == 400
    assert "page" not in answer.text


@pytest.mark.parametrize("host", ["localhost:9000", "LOCALHOST", "127.0.0.1:1"])
def test_a_forwarded_port_is_no_other_host(reader, host):
    assert reader.get("/studies", Host=host).status == 200


def test_a_post_with_the_word_of_its_page_is_taken(reader, port):
    answer = reader.post("/verdicts", b"12345", Origin=f"http://127.0.0.1:{port}", Sec_Fetch_Site="same-origin")
    assert (answer.status, answer.text) == (200, "5 bytes")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another program of this machine
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"X_CSRF": "0" * 64},
        {"X_CSRF": ""},
    ],
)
def test_a_post_from_elsewhere_is_refused(reader, headers):
    assert reader.post("/verdicts", b"12345", **headers).status == 403


def test_a_post_without_a_session_is_refused(stranger):
    assert stranger.post("/verdicts", b"12345").status == 403


def test_the_word_of_another_session_is_refused(reader, port, door):
    other = Browser(port)
    other.enter(f"http://127.0.0.1/?token={door.token}")
    other.get("/studies")
    assert reader.post("/verdicts", b"1", X_CSRF=other.csrf).status == 403


def test_a_body_of_ten_megabytes_is_refused(reader):
    answer = reader.post("/verdicts", b"0" * 10_000_000)
    assert answer.status == 413
    assert reader.post("/verdicts", b"0" * LONGEST_BODY).text == f"{LONGEST_BODY} bytes"
    assert reader.post("/verdicts", b"0" * (LONGEST_BODY + 1)).status == 413


def test_a_body_that_hides_its_size_is_refused_too(reader):
    chunked = b"".join(b"fa0\r\n" + b"0" * 4000 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    answer = reader.post("/verdicts", chunked, Transfer_Encoding="chunked")
    assert answer.status == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(reader, method):
    assert reader.send(method, "/studies", None, {}).status == 405


def test_every_answer_forbids_foreign_content_frames_and_caches(reader, stranger):
    for answer in (reader.get("/studies"), stranger.get("/studies"), reader.get("/studies", Host="evil.example")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_link_from_another_page_finds_its_way_in(reader, stranger):
    """A browser holds back a strict cookie once; the page that is loaded again has it."""
    from_elsewhere = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    first = stranger.get("/studies?finding=Mass", **from_elsewhere)
    assert first.status == 200
    assert '<meta http-equiv="refresh" content="0">' in first.text
    assert "page" not in first.text
    assert stranger.get("/studies?finding=Mass", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="navigate").status == 403


def test_a_picture_that_another_page_asks_for_is_refused(stranger):
    assert stranger.get("/studies", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403


def test_a_path_that_begins_like_another_host_stays_here(stranger, door):
    answer = stranger.get(f"//evil.example/studies?token={door.token}")
    assert answer.headers["location"] == "/evil.example/studies"


def test_the_log_names_neither_query_nor_token_nor_a_second_line(door, capsys):
    with served(AccessLog(guarded(door))) as port:
        browser = Browser(port)
        browser.enter(f"http://127.0.0.1/studies?token={door.token}&text=Smith")
        browser.get("/studies?text=Smith")
        browser.get("/studies%0a23:59:59%20review:%20forged")
    lines = capsys.readouterr().err
    assert re.search(r"GET /studies 303 \d+ ms\n", lines)
    assert re.search(r"GET /studies 200 \d+ ms\n", lines)
    assert not any(word in lines for word in ("Smith", door.token, "text=", "\n23:59:59"))


# ---- a password in place of the token ---------------------------------------------------------------------------


@pytest.fixture
def by_password():
    door = Door(PORT_OF_DOOR, "correct horse battery")
    with served(guarded(door)) as port:
        yield door, Browser(port)


def test_a_password_opens_and_a_wrong_one_does_not(by_password):
    _, browser = by_password
    assert 'type="password"' in browser.get("/studies").text
    wrong = browser.post("/enter", b"password=correct+horse")
    assert wrong.status == 403
    assert "This is not the password" in wrong.text
    right = browser.post("/enter", b"password=correct+horse+battery")
    assert (right.status, right.headers["location"]) == (303, "/")
    browser.cookie = right.cookie
    assert browser.get("/studies").status == 200


def test_readers_with_a_password_stay_in_over_a_restart(by_password):
    door, _ = by_password
    session = door.new_session()
    assert Door(PORT_OF_DOOR, "correct horse battery").knows(session)
    assert not Door(PORT_OF_DOOR, "another password").knows(session)


def test_guessing_passwords_is_stopped(by_password):
    _, browser = by_password
    for _ in range(10):
        assert browser.post("/enter", b"password=guess").status == 403
    assert browser.post("/enter", b"password=correct+horse+battery").status == 429


def test_another_site_cannot_guess(by_password):
    door, browser = by_password
    for _ in range(12):
        assert browser.post("/enter", b"password=guess", Origin="https://evil.example").status == 403
    assert not door.is_besieged()


def test_a_secure_cookie_is_kept_from_http():
    assert Door(PORT_OF_DOOR, is_secure=True).cookie.startswith("__Host-")
