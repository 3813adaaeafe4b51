"""What every page of the reading room works with, and the templates that draw the pages.

A page has the route of its module: `routes(context)` gives them, `app` puts them together. `Context.page` renders a
template of `review/templates`, which extends `room.html.j2`:

    title, head, body      blocks; `head` is for `<script type="module" src="/static/NAME.js">` of the page
    nav                    set it to the name of the page: `tonight`, `studies`, `disagreement`, `failures`
    room                   the Context
    study_url, thumbnail_url, list_url   filters: a study id → its page, its thumbnail; a Filter → its list
    csrf                   the word that a POST sends as the header X-CSRF or as the form's field `csrf`

A page that takes verdicts sends them by `import { send } from "/static/verdicts.js"`: `await send([{study_id, finding,
verdict, fingerprint, prob, consensus, note}])`, as they were shown, resolves once they are stored, and rejects with a
message for the reader. `send` adds the id of the submission and the reader's name, and tries again after a lost
connection. The field of the reader's name stands at the top of every page.

jinja2 escapes every text. The policy of the pages allows neither inline scripts nor inline styles: no `style="…"`, no
`onclick="…"`; what a script sets through `element.style` is allowed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from cxrpipe import __version__
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.words import number, spoken, studies, study_url
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

if TYPE_CHECKING:
    from cxrpipe.review.rows import Rows


@dataclass(frozen=True)
class Context:
    """One opened score root. Shared by the threads that answer requests."""

    root: ScoreRoot
    rows: Rows
    table: StudyTable | None
    """The study table, where the objects are known: from --studies. None: no pictures."""
    reviews: Reviews
    templates: Environment
    allow_notes: bool
    """Whether a verdict may have a note."""
    pseudonymised: bool
    """Whether the study ids are pseudonyms."""

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Render a template. `csrf`, the word that a form of the page must send, stands in the template."""
        csrf = request.scope.get("state", {}).get("csrf", "")
        html = self.templates.get_template(template).render(room=self, csrf=csrf, version=__version__, **values)
        return HTMLResponse(html, status)


def thumbnail_url(study_id: str) -> str:
    return f"/thumbnail/{quote(study_id, safe='')}"


def list_url(filter_: Any) -> str:
    """The list that a `filters.Filter` describes."""
    query = filter_.query()
    return f"/studies?{query}" if query else "/studies"


def first_bytes_url(study_id: str) -> str:
    return f"/first-bytes/{quote(study_id, safe='')}"


def share(fraction: float | None) -> str:
    """`12.5%`, or a dash."""
    return "–" if fraction is None else f"{fraction:.1%}"


@functools.cache
def templates() -> Environment:
    """The templates of the room, and those that it shares with the report."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("cxrpipe.review"), PackageLoader("cxrpipe.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (spoken, number, studies, share, study_url, thumbnail_url, first_bytes_url, list_url)
    environment.filters |= {word.__name__: word for word in words}
    return environment
