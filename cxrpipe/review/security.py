"""What stands before every page: which requests are answered at all, and what browsers may do with the answers.

A request needs a Host header that names this server (a page of another site may have had its name changed to
127.0.0.1), a session, and to change anything an Origin of ours and the CSRF word of the session. The first request
brings the token in its address; it is answered by a cookie and the same address without the token.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import parse_qs, parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxrpipe.review.context import templates
from cxrpipe.review.door import Door

LONGEST_BODY = 64_000
"""Bytes of the body of a request."""

ENTER = "/enter"
"""Where the page that asks for a password sends it."""
_TOKEN = "token"
_OPEN_TO_ALL = "/static/"  # style and scripts, the same for everybody

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
    "object-src 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """The ASGI application that lets requests through to another one."""

    def __init__(self, app: ASGIApp, door: Door, hosts: Collection[str]) -> None:
        """
        hosts  names of this server, without port: a port may be forwarded from another one
        """
        self._app, self._door = app, door
        self._hosts = {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # the server is told to expect neither a lifespan nor websockets
        with_headers = _with_headers(send)
        request = Request(scope, receive)
        answer = await self._refusal(request)
        if answer is None:
            await self._app(scope, _limited(receive), with_headers)
        else:
            await answer(scope, receive, with_headers)

    async def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that goes no further; None for one that may."""
        if _host_of(request) not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            return PlainTextResponse(f"Not a name of this server. Expected in the address: {names}\n", 400)
        if request.method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("Only GET and POST are answered here.\n", 405)
        if _declared_size(request) > LONGEST_BODY:
            return PlainTextResponse(f"At most {LONGEST_BODY:,} bytes are taken.\n", 413)
        if request.url.path.startswith(_OPEN_TO_ALL):
            return None
        if request.method == "POST" and not _is_from_here(request):
            return PlainTextResponse("A page of another site sent this; it is refused.\n", 403)
        if request.method == "POST" and request.url.path == ENTER:
            return await self._password(request)
        if request.method == "GET" and _TOKEN in request.query_params and not self._door.asks_for_password:
            return self._token(request)
        return self._session(request)

    def _session(self, request: Request) -> Response | None:
        session = request.cookies.get(self._door.cookie, "")
        if not self._door.knows(session):
            return self._closed(request)
        csrf = self._door.csrf(session)
        if request.method == "POST" and not hmac.compare_digest(
            request.headers.get("x-csrf", "").encode(), csrf.encode()
        ):
            return PlainTextResponse("The page is too old to send anything: reload it.\n", 403)
        request.state.csrf = csrf
        return None

    def _token(self, request: Request) -> Response:
        """The token becomes a cookie, and leaves the address."""
        if not self._door.opens_for(request.query_params[_TOKEN]):
            return self._closed(request)
        rest = [(name, value) for name, value in parse_qsl(request.url.query) if name != _TOKEN]
        return self._entered(request.url.path + (f"?{urlencode(rest)}" if rest else ""))

    async def _password(self, request: Request) -> Response:
        if not self._door.asks_for_password:
            return self._closed(request)
        if self._door.is_besieged():
            return _page("closed", 429, self._door, problem="Too many wrong passwords. Wait a minute.")
        form = parse_qs((await Request(request.scope, _limited(request.receive)).body()).decode(errors="replace"))
        if not self._door.opens_for(form.get("password", [""])[0]):
            return _page("closed", 403, self._door, problem="This is not the password.")
        return self._entered("/")

    def _entered(self, address: str) -> Response:
        """On to an address of ours with a cookie. A path that begins with `//` would be another site's."""
        answer = RedirectResponse("/" + address.lstrip("/\\"), 303)
        answer.set_cookie(
            self._door.cookie,
            self._door.new_session(),
            httponly=True,
            samesite="strict",
            secure=self._door.is_secure,
        )
        return answer

    def _closed(self, request: Request) -> Response:
        """No session. A browser that follows a link from elsewhere holds back a strict cookie; it shall ask again."""
        site, mode = (request.headers.get(f"sec-fetch-{name}") for name in ("site", "mode"))
        if request.method == "GET" and site in ("cross-site", "same-site") and mode == "navigate":
            return _page("again", 200, self._door)
        return _page("closed", 403, self._door)


def _page(template: str, status: int, door: Door, problem: str = "") -> HTMLResponse:
    html = templates().get_template(f"{template}.html.j2").render(door=door, problem=problem)
    return HTMLResponse(html, status)


def _host_of(request: Request) -> str:
    """The name in the Host header, without port; empty where there is none, or more than one."""
    hosts = request.headers.getlist("host")
    host = hosts[0].lower() if len(hosts) == 1 else ""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_from_here(request: Request) -> bool:
    """Whether a page of ours, or a program that is no browser, sends this."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    ours = f"{request.url.scheme}://{request.headers['host']}"
    return site == "same-origin" and (origin is None or origin.lower() == ours.lower())


def _declared_size(request: Request) -> int:
    size = request.headers.get("content-length", "0")
    return int(size) if size.isdecimal() else 0


def _limited(receive: Receive) -> Receive:
    """A body without a declared size is counted while it comes."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LONGEST_BODY:
            raise HTTPException(413, f"At most {LONGEST_BODY:,} bytes are taken.")
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent
