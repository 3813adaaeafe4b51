"""The web application: every page of the reading room behind its guard."""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from cxrpipe.errors import ConfigError, StoreError
from cxrpipe.review import disagreement, pages, study_page, verdict_requests
from cxrpipe.review.access_log import AccessLog
from cxrpipe.review.context import Context
from cxrpipe.review.door import Door
from cxrpipe.review.security import Guard

_KEPT = {"Cache-Control": "no-cache"}
"""For style and scripts: a browser keeps them, and asks whether they have changed."""


def build(room: Context, door: Door, hosts: Collection[str]) -> ASGIApp:
    """
    hosts  names by which readers reach the server
    """

    def problem(request: Request, error: Exception) -> Response:
        status, words = _words(error)
        return room.page(request, "problem.html.j2", status, heading=words, detail=_detail(error))

    problems = dict.fromkeys((HTTPException, ConfigError, StoreError), problem)
    of_pages = (pages, disagreement, study_page, verdict_requests)
    routes = [*(route for module in of_pages for route in module.routes(room)), *_static()]
    return AccessLog(Guard(Starlette(routes=routes, exception_handlers=problems), door, hosts))


def _static() -> list[BaseRoute]:
    style = _folder("cxrpipe.report") / "style.css"
    return [
        Route("/static/style.css", lambda request: FileResponse(style, headers=_KEPT)),
        Mount("/static", _Static(directory=_folder("cxrpipe.review") / "static")),
    ]


class _Static(StaticFiles):
    def file_response(self, *args: object, **kwargs: object) -> Response:
        answer = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        answer.headers.update(_KEPT)
        return answer


def _folder(package: str) -> Path:
    return Path(str(resources.files(package)))


def _words(error: Exception) -> tuple[int, str]:
    if isinstance(error, HTTPException):
        return error.status_code, {404: "There is nothing here"}.get(error.status_code, error.detail)
    if isinstance(error, StoreError):
        return 503, "The store does not answer"
    return 400, "This address asks for something that is not there"


def _detail(error: Exception) -> str:
    return "" if isinstance(error, HTTPException) else str(error)
