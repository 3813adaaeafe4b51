"""The films of scored studies, read and decoded when a page asks for them, wherever the archive lies.

A film comes from a stranger: it is decoded in a process of its own, within a time limit. What goes wrong is told by a
small picture with the reason.
"""

from __future__ import annotations

import html
import textwrap
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2

from cxrpipe import console
from cxrpipe.errors import StoreError, StudyError
from cxrpipe.images.isolation import DecoderError, Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.records import INTERNAL_ERROR
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.study_panels import shown
from cxrpipe.review.cache import ByteCache
from cxrpipe.review.listed import Listed
from cxrpipe.runs.root import ScoreRoot

FILM_PX, THUMBNAIL_PX = 2_048, 192
"""Longer side of a film at most, and of a thumbnail."""
UNKNOWN_PX = 1_024
"""Longer side of a film whose size the score row does not hold, because its view was not scored."""
HEAD_BYTES = 256
_TIMEOUT_S = 20
"""For decoding one film. A person waits."""
_CACHE_BYTES = 192 << 20
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 82]
_LETTER_PX, _LINE_PX = 7, 16
"""Of the text in a picture without a film."""
_WITHOUT_FILM_PX = 480
"""Side of such a picture where a film was to be."""

Row = Mapping[str, Any]


class Picture(NamedTuple):
    data: bytes
    media_type: str
    problem: str | None = None
    """Why the film is not shown, for a person. None: it is."""


class Films:
    """The films of a score root. Threads may share it; `close` ends its processes.

    table           of --studies; None: the frozen lists of the root say where the files lie
    pseudonymised   whether the ids are pseudonyms: then no message names an object
    children        processes that decode at the same time; each starts when it is needed
    """

    def __init__(
        self,
        root: ScoreRoot,
        table: StudyTable | None,
        *,
        pseudonymised: bool = False,
        children: int = 2,
        timeout_s: float = _TIMEOUT_S,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        listed, decode = Listed(root, table), Isolated(decode_view, timeout_s, children)
        self._listed, self._decode, self._cache = listed, decode, ByteCache(cache_bytes)
        self._pseudonymised = pseudonymised
        self.close = weakref.finalize(self, _close, listed, decode)

    def film(self, row: Row, number: int, intensity: str = "voi") -> Picture:
        """A view of a study, grey, its own size or smaller; PNG.

        row        a score row, with `views` and `run_id`
        number     of the view, from 0
        intensity  a name of `images.intensity.INTENSITIES`
        """
        view = row["views"][number]
        sides = (view["rows_px"], view["columns_px"])
        longer_px = min(FILM_PX, max(sides)) if all(sides) else UNKNOWN_PX
        return self._picture(row, number, intensity, longer_px, ".png", _PNG)

    def thumbnail(self, row: Row) -> Picture:
        """The first view that was scored, or else the first; JPEG."""
        if not row["views"]:
            return reason_picture("this study has no view")
        statuses = [view["status"] for view in row["views"]]
        number = statuses.index("ok") if "ok" in statuses else 0
        if row["status"] == "failed":
            return reason_picture(row["reason"] or "failed")
        return self._picture(row, number, "voi", THUMBNAIL_PX, ".jpg", _JPEG)

    def head(self, row: Row, number: int) -> bytes:
        """The first bytes of the file of a view. StudyError where not even they can be read."""
        study, reader = self._listed.find(row)
        return reader.head(study.views[number], HEAD_BYTES)

    def _picture(
        self, row: Row, number: int, intensity: str, longer_px: int, kind: str, settings: Sequence[int]
    ) -> Picture:
        media_type = {".png": "image/png", ".jpg": "image/jpeg"}[kind]
        key = (row["study_id"], row["study_digest"], number, intensity, longer_px)
        if data := self._cache.get(key):
            return Picture(data, media_type)
        side_px = THUMBNAIL_PX if longer_px == THUMBNAIL_PX else _WITHOUT_FILM_PX
        try:
            study, reader = self._listed.find(row)
            film = shown(study.views[number], reader, self._decode, intensity, longer_px)
        except StudyError as error:
            return reason_picture(error.reason, "" if self._pseudonymised else error.detail, side_px)
        except StoreError as error:
            return reason_picture("the store does not answer", "" if self._pseudonymised else str(error), side_px)
        except DecoderError as error:
            console.log(f"a film is not shown: {error}")
            return reason_picture(INTERNAL_ERROR, "an error in this program; its log names it", side_px)
        _, encoded = cv2.imencode(kind, film.pixels, settings)
        data = encoded.tobytes()
        self._cache.put(key, data)
        return Picture(data, media_type)


def _close(listed: Listed, decode: Isolated) -> None:
    decode.__exit__()
    listed.close()


def reason_picture(reason: str, detail: str = "", side_px: int = THUMBNAIL_PX) -> Picture:
    """A picture that says why there is no film; SVG."""
    problem = f"{reason.replace('_', ' ')}: {detail}" if detail else reason.replace("_", " ")
    most_lines, middle = side_px // _LINE_PX - 4, side_px // 2
    lines = textwrap.wrap(problem, side_px // _LETTER_PX - 1, max_lines=max(1, most_lines), placeholder=" …")
    top = middle + 4 - _LINE_PX * (len(lines) - 1) // 2
    text = "".join(
        f'<text x="{middle}" y="{top + _LINE_PX * place}">{html.escape(line)}</text>'
        for place, line in enumerate(lines)
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side_px}" height="{side_px}" '
        f'viewBox="0 0 {side_px} {side_px}">'
        '<rect width="100%" height="100%" fill="#15181c"/>'
        f'<g fill="#dfe2e6" font-family="sans-serif" font-size="11.5" text-anchor="middle">{text}</g></svg>'
    )
    return Picture(svg.encode("utf-8", "replace"), "image/svg+xml", problem)


def hex_lines(data: bytes) -> str:
    """Bytes as people read them: `00000000  89 50 4e 47 …  |.PNG…|`, 16 on a line."""
    return "\n".join(
        f"{start:08x}  {data[start : start + 16].hex(' '):47}  |{_printable(data[start : start + 16])}|"
        for start in range(0, len(data), 16)
    )


def _printable(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
