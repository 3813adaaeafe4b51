"""HTML pages of a single file, for a screen without network and for paper.

Templates only draw; other modules decide what is drawn. jinja2 escapes every text, so HTML in study ids or findings is
shown as text and has no effect.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrpipe import __version__
from cxrpipe.config import ReviewConfig
from cxrpipe.report.words import figure, interval, number, spoken, studies, study_url


def page(template: str, *, numbers: str, **values: Any) -> str:
    """Render a template.

    numbers  name of the file that holds the same figures for programs
    """
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return _environment().get_template(template).render(made=made, version=__version__, numbers=numbers, **values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cxrpipe.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {word.__name__: word for word in (spoken, number, interval, studies, study_url, figure)}
    environment.globals["reading_room"] = f"http://127.0.0.1:{ReviewConfig.port}"
    return environment
