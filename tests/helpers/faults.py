"""A proxy before a real S3 server that makes faults: what a store, a network or a token does on a bad night."""

import contextlib
import http.client
import http.server
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple, Self

Handler = http.server.BaseHTTPRequestHandler
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Reply(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Fault(NamedTuple):
    answer: Callable[[Handler, Reply], None]
    """Instead of the reply of the store."""
    reaches_store: bool
    """Whether the store has done what it was asked for."""


class _Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what we ask for."""


class FaultyProxy:
    """Passes everything on to `endpoint`, but for what `faults` says. It stays for as long as it is open (`with`)."""

    def __init__(self, endpoint: str) -> None:
        self._store = urllib.parse.urlsplit(endpoint).netloc
        self._lock = threading.Lock()
        self._left: list[tuple[Fault, Callable[[Handler], bool], float]] = []

        class Passing(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            setattr(Passing, f"do_{method}", lambda request: self._answer(request))
        self._server = _Quiet(("127.0.0.1", 0), Passing)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, fault: Fault, times: float = float("inf"), only: Callable[[Handler], bool] = lambda _: True) -> None:
        """Answer the next so many requests that `only` takes by `fault`."""
        with self._lock:
            self._left.append((fault, only, times))

    def heal(self) -> None:
        with self._lock:
            self._left.clear()

    def _answer(self, request: Handler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        fault = self._fault(request)
        answer, reaches_store = fault or Fault(send, reaches_store=True)
        answer(request, self._pass_on(request, body) if reaches_store else Reply(0, [], b""))

    def _fault(self, request: Handler) -> Fault | None:
        with self._lock:
            for place, (fault, only, times) in enumerate(self._left):
                if times > 0 and only(request):
                    self._left[place] = (fault, only, times - 1)
                    return fault
        return None

    def _pass_on(self, request: Handler, body: bytes) -> Reply:
        connection = http.client.HTTPConnection(self._store, timeout=60)
        try:
            connection.request(request.command, request.path, body, dict(request.headers))
            answer = connection.getresponse()
            return Reply(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()


def send(request: Handler, reply: Reply) -> None:
    _send_head(request, reply)
    request.wfile.write(reply.body)


def _send_head(request: Handler, reply: Reply) -> None:
    """To a HEAD the length is that of the body which is not sent."""
    lengths = [value for name, value in reply.headers if name.lower() == "content-length"]
    request.send_response(reply.status)
    for name, value in reply.headers:
        if name.lower() not in _OF_ONE_CONNECTION:
            request.send_header(name, value)
    request.send_header("Content-Length", lengths[0] if lengths else str(len(reply.body)))
    request.end_headers()


def after_parts(number: int) -> Callable[[Handler], bool]:
    """Requests from the one on that writes a part after so many."""
    parts = 0

    def comes_after(request: Handler) -> bool:
        nonlocal parts
        parts += request.command == "PUT" and "/parts/" in request.path
        return parts > number

    return comes_after


# ---- faults ---------------------------------------------------------------------------------------------------


def refusal(status: int, code: str) -> Fault:
    """As S3 refuses: a HEAD without a word, all else with a code."""

    def refuse(request: Handler, _: Reply) -> None:
        body = b"" if request.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
        send(request, Reply(status, [("Content-Type", "application/xml")], body))

    return Fault(refuse, reaches_store=False)


def _half(request: Handler, reply: Reply) -> None:
    _send_head(request, reply)
    request.wfile.write(reply.body[: len(reply.body) // 2])
    request.wfile.flush()


def _reset(request: Handler, _: Reply) -> None:
    """RST instead of FIN."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()


def _reset_in_body(request: Handler, reply: Reply) -> None:
    _half(request, reply)
    _reset(request, reply)


def _cut_body(request: Handler, reply: Reply) -> None:
    _half(request, reply)
    request.close_connection = True


def slow_body(pause_s: float) -> Fault:
    """Half of the answer, a pause, and the rest."""

    def trickle(request: Handler, reply: Reply) -> None:
        _half(request, reply)
        time.sleep(pause_s)
        with contextlib.suppress(OSError):  # the client may have given up
            request.wfile.write(reply.body[len(reply.body) // 2 :])
        request.close_connection = True

    return Fault(trickle, reaches_store=True)


RESET = Fault(_reset, reaches_store=False)
"""The connection breaks before the store has heard of it."""
LOST_ANSWER = Fault(_reset, reaches_store=True)
"""The connection breaks when the store has done its work."""
RESET_IN_BODY = Fault(_reset_in_body, reaches_store=True)
CUT_BODY = Fault(_cut_body, reaches_store=True)
"""The answer ends early and in an orderly way."""
