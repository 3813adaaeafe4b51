"""The server of the reading room on a port of its own, and requests as a program other than a browser sends them."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from starlette.types import ASGIApp

from cxrpipe.config import ReviewConfig
from cxrpipe.review import server


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
