"""The server of the reading room on a port of its own, and requests as a program other than a browser sends them."""

import http.client
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TextIO

from processes import ROOT
from starlette.types import ASGIApp

from cxrpipe.config import ReviewConfig
from cxrpipe.programs.review import room_of
from cxrpipe.review import app, server
from cxrpipe.review.door import Door


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    text: str

    @property
    def cookie(self) -> str:
        """`name=value` of the cookie that the answer sets."""
        return self.headers["set-cookie"].partition(";")[0]


class Browser:
    """Keeps a cookie, and the CSRF word of the last page."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""
        self.csrf = ""

    def get(self, path: str, **headers: str) -> Answer:
        answer = self.send("GET", path, None, headers)
        if 'name="csrf"' in answer.text:
            self.csrf = answer.text.partition('name="csrf" content="')[2].partition('"')[0]
        return answer

    def post(self, path: str, body: object, **headers: str) -> Answer:
        """body  bytes, or what becomes JSON"""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, data, {"X-CSRF": self.csrf} | headers)

    def enter(self, address: str) -> Answer:
        """Open the printed address, and keep the cookie."""
        answer = self.get("/" + address.partition("://")[2].partition("/")[2])
        self.cookie = answer.cookie
        return answer

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """headers  with `_` for `-`"""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Cookie": self.cookie} if self.cookie else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read().decode("utf-8", "replace"))
        finally:
            connection.close()


@contextmanager
def served(app: ASGIApp, port: int = 0) -> Iterator[int]:
    """Serve an application in a thread; gives the port."""
    config = ReviewConfig(source="unused", port=port)
    answering = server.server_of(app, config)
    with server.listen(config) as opened:
        thread = threading.Thread(target=answering.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield opened.getsockname()[1]
        finally:
            answering.should_exit = True
            thread.join()


@contextmanager
def opened_room(source: str, studies: str | None = None, **settings: object) -> Iterator[Browser]:
    """The reading room of a score root, and a browser that is in."""
    config = ReviewConfig(source=source, studies=studies, **settings)  # type: ignore[arg-type]
    with room_of(config) as room:
        door = Door(port=0)
        with served(app.build(room, door, server.names(config))) as port:
            browser = Browser(port)
            browser.enter(f"http://127.0.0.1/?token={door.token}")
            yield browser


@contextmanager
def reviewing(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The program `review` as a process of its own: the address that it prints, and the process."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "jobs/review.py", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with process:
            try:
                yield _printed_address(process, log), process
            finally:
                process.terminate()


def _printed_address(process: subprocess.Popen[str], log: TextIO) -> str:
    for line in process.stdout or ():
        if line.strip().startswith("http"):
            return line.strip()
    log.seek(0)
    raise AssertionError(f"review ended with {process.wait()}: {log.read()[-3000:]}")
