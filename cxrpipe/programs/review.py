"""The program `review`: a web application that shows a score root and takes readers' verdicts."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cxrpipe import console, storage
from cxrpipe.config import ReviewConfig
from cxrpipe.errors import ConfigError, ExitStatus, LockError
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.reading_lists import draw_list
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

if TYPE_CHECKING:
    from cxrpipe.review.context import Context

_NEEDED = ("duckdb", "starlette", "uvicorn")
_MERGED_FROM = 500
"""Files of verdicts that are merged into one when the program starts. Reading 500 takes a second on S3."""


def run(config: ReviewConfig) -> ExitStatus:
    if missing := [name for name in _NEEDED if not importlib.util.find_spec(name)]:
        raise ConfigError(f"{' and '.join(missing)} not installed; run: pip install 'cxrpipe[review]'")
    from cxrpipe.review import app, server  # need the extra
    from cxrpipe.review.door import Door

    password = server.read_password(config.password_file) if config.password_file else None
    with server.listen(config) as opened, room_of(config) as room:
        _merge(room.reviews)
        door = Door(opened.getsockname()[1], password, is_secure=config.certificate is not None)
        answering = server.server_of(app.build(room, door, server.names(config)), config)
        _say(config, room, server.address(config, opened) + _first_page(config, room), door.token)
        try:
            answering.run(sockets=[opened])
        except KeyboardInterrupt:
            console.log("closed")
    return ExitStatus.DONE


@contextmanager
def room_of(config: ReviewConfig) -> Iterator["Context"]:
    """Open what the pages show."""
    from cxrpipe.review.context import Context, templates
    from cxrpipe.review.rows import Rows

    table = StudyTable(config.studies) if config.studies else None
    root = ScoreRoot.at(config.source)
    with Rows.open(root, config.fingerprint, table) as rows:
        pseudonymised = _is_pseudonymised(root, table)
        allow_notes = config.allow_notes or not pseudonymised
        yield Context(root, rows, table, Reviews(root, allow_notes), templates(), allow_notes, pseudonymised)


def _is_pseudonymised(root: ScoreRoot, table: StudyTable | None) -> bool:
    """Whether the ids of the root are pseudonyms. A root of pseudonyms does not hold the lists that its runs scored."""
    if table is not None:
        return table.is_pseudonymised
    newest = root.complete_runs().newest.run_id
    return storage.stat(root.run(newest).studies) is None


def _merge(reviews: Reviews) -> None:
    try:
        reviews.merge(_MERGED_FROM)
    except LockError:
        console.log("a run holds the score root; the files of verdicts are merged another time")


def _first_page(config: ReviewConfig, room: "Context") -> str:
    """What the printed address opens: the reading list of --sample, or else tonight."""
    from cxrpipe.review.filters import Filter

    if not config.sample:
        return ""
    drawn = draw_list(room.root, room.rows.runs, config.sample, config.by, config.finding, config.seed)
    console.log(f"reading list {drawn.name}: {drawn.studies.num_rows:,} of {drawn.design.population:,} studies")
    shown = Filter(finding=config.finding, list=drawn.name, sort="shuffled", descending=False)
    return f"studies?{shown.query()}"


def _say(config: ReviewConfig, room: "Context", address: str, token: str | None) -> None:
    """Tell the person who started this what to open, and who else can."""
    out = console.out()
    if room.pseudonymised and room.table is None:
        console.log("the score root is pseudonymised and names no object: without --studies there are no pictures")
    if not config.is_local:
        console.log(
            f"other machines can reach {config.source} here: every score, picture and verdict, with the password of "
            f"{config.password_file}",
            "warning",
        )
    out.print(f"Reading room of {config.source}:")
    out.print(f"  {address}{'&' if '?' in address else '?'}token={token}" if token else f"  {address}", soft_wrap=True)
    out.print("Ctrl-C ends it.")
