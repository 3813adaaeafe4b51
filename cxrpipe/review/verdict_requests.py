"""POST /verdicts: what a reader says of one study, as JSON, becomes verdicts that are kept.

    {"id": "…", "reader": "…", "verdicts": [{"study_id": "…", "finding": "…", "verdict": "agree", "fingerprint": "…"}]}

The browser makes the id, and sends the same again until it has an answer. A verdict may have a `note`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cxrpipe.errors import ConfigError, StoreError
from cxrpipe.records.verdicts import Verdict
from cxrpipe.review.context import Context

_FIELDS = ("study_id", "finding", "verdict", "fingerprint", "note")


def routes(room: Context) -> list[Route]:
    async def answer(request: Request) -> Response:
        try:
            submission = _parsed(await request.body())
            kept = await run_in_threadpool(_keep, room, submission)
        except ConfigError as error:
            return JSONResponse({"error": str(error)}, 400)
        except StoreError as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse({"kept": kept})

    return [Route("/verdicts", answer, methods=["POST"])]


def _keep(room: Context, submission: Mapping[str, Any]) -> int:
    """Write the verdicts of a submission; their number."""
    time = datetime.now(UTC)
    verdicts = [_verdict(room, submission, said, time) for said in submission["verdicts"]]
    room.reviews.write(verdicts)
    return len(verdicts)


def _verdict(room: Context, submission: Mapping[str, Any], said: Mapping[str, Any], time: datetime) -> Verdict:
    row = room.rows.study(said["study_id"])
    if row is None:
        raise ConfigError(f"no study {said['study_id'][:200]!r} here")
    if said["fingerprint"] != row["fingerprint"]:
        raise ConfigError("other models have scored this study since the page was loaded; reload the page")
    if said["finding"] not in room.rows.findings:
        raise ConfigError(f"no finding {said['finding'][:200]!r} here; expected one of {', '.join(room.rows.findings)}")
    return Verdict.on(
        row,
        said["finding"],
        said["verdict"],
        verdict_id=submission["id"],
        reader=submission["reader"],
        time=time,
        note=said["note"],
    )


def _parsed(body: bytes) -> dict[str, Any]:
    """The submission with every field in its place, each a string; ConfigError for anything else."""
    try:
        submission = json.loads(body)
        verdicts = [{name: said.get(name, "") for name in _FIELDS} for said in submission["verdicts"]]
        words = [submission["id"], submission["reader"], *(word for said in verdicts for word in said.values())]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError('expected JSON: {"id", "reader", "verdicts": [{"study_id", "finding", …}]}') from None
    if not all(isinstance(word, str) for word in words):
        raise ConfigError("expected text in every field of a verdict")
    return {"id": submission["id"], "reader": submission["reader"], "verdicts": verdicts}
