"""The page of one study, and the pictures of all pages.

GET /study/ID?FILTER                     the page; FILTER is that of the list which the reader came from
GET /film/NUMBER/ID?intensity=           a view, grey
GET /layer/KIND/NUMBER/ID?name=          mask, heat or structure of a view, transparent
GET /thumbnail/ID                        the first scored view, small
GET /first-bytes/ID                      the first bytes of its first view that failed, as text
GET /neighbours/ID                       the nearest studies by feature vector; JSON

Each asks the rows for the study first, so nothing of a forgotten patient is shown from a cache.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.images.intensity import INTENSITIES
from cxrpipe.records import RunReport
from cxrpipe.review import layers, study_facts
from cxrpipe.review.answers import Pictures
from cxrpipe.review.context import Context
from cxrpipe.review.filters import Filter
from cxrpipe.review.neighbours import neighbours
from cxrpipe.review.opinions import answers
from cxrpipe.review.pictures import Films, Picture

Row = dict[str, Any]
_STUDIES_IN_USE = 16
"""Studies whose masks and heat maps stay in memory."""
_STUDIES_OF_PATIENT = 40
"""Most other studies of a patient on one page."""


def routes(room: Context) -> list[Route]:
    films = Films(room.root, room.table, pseudonymised=room.pseudonymised)
    pages = _Pages(room, films)
    return [
        Route("/study/{study_id:path}", pages.study),
        Route("/film/{number:int}/{study_id:path}", pages.film),
        Route("/layer/{kind}/{number:int}/{study_id:path}", pages.layer),
        Route("/thumbnail/{study_id:path}", pages.thumbnail),
        Route("/first-bytes/{study_id:path}", pages.first_bytes),
        Route("/neighbours/{study_id:path}", pages.neighbours),
    ]


class _Pages:
    """The answers to requests. They are no coroutines: Starlette gives each its own thread."""

    def __init__(self, room: Context, films: Films) -> None:
        self._room, self._films = room, films
        self._report = functools.lru_cache(64)(self._read_report)
        self._read_pictures = functools.lru_cache(_STUDIES_IN_USE)(self._pictures_of_row)

    def study(self, request: Request) -> Response:
        room, row = self._room, self._row(request)
        filter_ = Filter.of_query(request.query_params, room.rows.findings)
        report, study_id = self._report(row["run_id"]), row["study_id"]
        previous, following = room.rows.beside(filter_, study_id)
        pictures = self._pictures(row)
        head = None if room.pseudonymised else functools.partial(self._films.head, row)
        return room.page(
            request,
            "study.html.j2",
            row=row,
            report=report,
            filter=filter_,
            previous=previous,
            following=following,
            answers=answers(row, report),
            views=study_facts.shown_views(row, pictures, head),
            of_file=study_facts.of_file,
            explained=study_facts.explained(row["reason"]) if row["reason"] else "",
            flags=[*study_facts.explained_flags(row)],
            intensities=study_facts.intensities(report),
            provenance=[*study_facts.provenance(row, report)],
            others=self._of_patient(row),
            verdicts=self._verdicts(study_id),
            has_films=self._has_films,
            has_vectors=bool(report.settings.get("embed")),
        )

    def film(self, request: Request) -> Response:
        row, number = self._view(request)
        intensity = request.query_params.get("intensity", "voi")
        if intensity not in INTENSITIES:
            raise ConfigError(f"intensity {intensity[:80]!r}; expected one of {', '.join(INTENSITIES)}")
        if not self._has_films:
            raise HTTPException(404)
        return _picture(self._films.film(row, number, intensity))

    def thumbnail(self, request: Request) -> Response:
        row = self._row(request)
        if not self._has_films:
            raise HTTPException(404)
        return _picture(self._films.thumbnail(row))

    def first_bytes(self, request: Request) -> Response:
        row = self._row(request)
        head = None if self._room.pseudonymised else functools.partial(self._films.head, row)
        numbers = (number for number, view in enumerate(row["views"]) if view["status"] == "failed")
        number = next(numbers, 0)
        words = study_facts.first_bytes(head, number) if row["views"] else "this study has no view"
        return PlainTextResponse(words)

    def layer(self, request: Request) -> Response:
        row, number = self._view(request)
        pictures, name = self._pictures(row), request.query_params.get("name", "")
        if pictures is None:
            raise HTTPException(404)
        view = row["views"][number]
        match request.path_params["kind"]:
            case "mask":
                png = pictures.masks[number] if number < len(pictures.masks) else None
            case "structure":
                png = _named(pictures.structures, number, name)
            case "heat":
                png = _named(pictures.heatmaps, number, name)
            case _:
                png = None
        if png is None or not view["rows_px"]:
            raise HTTPException(404)
        draw = layers.heat_png if request.path_params["kind"] == "heat" else layers.mask_png
        return Response(draw(png, view), media_type="image/png")

    def neighbours(self, request: Request) -> Response:
        row = self._row(request)
        try:
            return JSONResponse(neighbours(self._room.root, row["study_id"], row["fingerprint"]))
        except ConfigError as error:
            return JSONResponse({"error": str(error)}, 404)

    # ---- what they share ----------------------------------------------------------------------------------------

    @property
    def _has_films(self) -> bool:
        """Whether the objects are known: a pseudonymised root names none."""
        return self._room.table is not None or not self._room.pseudonymised

    def _row(self, request: Request) -> Row:
        """The row of the study in the address; 404 where there is none."""
        row = self._room.rows.study(request.path_params["study_id"])
        if row is None:
            raise HTTPException(404)
        return dict(row)

    def _view(self, request: Request) -> tuple[Row, int]:
        """The row of the study, and the number of the view in the address; 404 where there is none."""
        row, number = self._row(request), int(request.path_params["number"])
        if number >= len(row["views"]):
            raise HTTPException(404)
        return row, number

    def _pictures(self, row: Row) -> Pictures | None:
        """The masks and heat maps of a row. A page asks once for each layer, and each reading takes a row group."""
        return self._read_pictures(row["study_id"], row["run_id"])

    def _pictures_of_row(self, study_id: str, run_id: str) -> Pictures | None:
        return self._room.rows.pictures(study_id)

    def _read_report(self, run_id: str) -> RunReport:
        return RunReport.from_json(storage.read(self._room.root.run(run_id).report))

    def _of_patient(self, row: Row) -> list[Row]:
        """The other studies of the patient."""
        if row["patient_id"] is None:
            return []
        every = self._room.rows.of_patient(row["patient_id"])
        return [other for other in every if other["study_id"] != row["study_id"]][:_STUDIES_OF_PATIENT]

    def _verdicts(self, study_id: str) -> list[Row]:
        """The newest verdict of every reader on every finding, the latest first."""
        if self._room.reviews is None:
            return []
        verdicts = self._room.reviews.read()
        of_study: list[Row] = verdicts.filter(pc.equal(verdicts["study_id"], study_id)).to_pylist()
        return of_study[::-1]


def _named(pairs: Sequence[Sequence[tuple[str, bytes]]], number: int, name: str) -> bytes | None:
    return dict(pairs[number]).get(name) if number < len(pairs) else None


def _picture(picture: Picture) -> Response:
    """A browser shows a picture whatever its status. 422: the film itself cannot be shown."""
    return Response(picture.data, 422 if picture.problem else 200, media_type=picture.media_type)
