"""A line on stderr for every request: method, path, status and time. Neither the query nor a header is written."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxrpipe import console


class AccessLog:
    """An ASGI application around another one. Pictures and style are left out where all went well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, kind, start = 500, b"", time.monotonic()

        async def noted(message: Message) -> None:
            nonlocal status, kind
            if message["type"] == "http.response.start":
                status, kind = message["status"], dict(message["headers"]).get(b"content-type", b"")
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            if scope["type"] == "http" and not _is_dull(scope["path"], status, kind):
                path = scope["raw_path"].decode("ascii", "backslashreplace")  # still quoted: it cannot begin a new line
                console.log(f"{scope['method']} {path} {status} {1000 * (time.monotonic() - start):.0f} ms")


def _is_dull(path: str, status: int, kind: bytes) -> bool:
    return status < 400 and (path.startswith("/static/") or kind.startswith(b"image/"))
