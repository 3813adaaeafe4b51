"""Pages of one file that need nothing else, on a screen without network and on paper.

Templates draw; what they are given is decided elsewhere. jinja2 escapes every text, so an archive whose study ids or
findings hold HTML is shown as it is and can do nothing.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrpipe import __version__
from cxrpipe.report.words import figure, interval, number, spoken, studies


def page(template: str, *, numbers: str, **values: Any) -> str:
    """numbers  the file that has the same figures for programs"""
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
    environment.filters |= {each.__name__: each for each in (spoken, number, interval, studies, figure)}
    return environment
