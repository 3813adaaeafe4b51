"""Runs a part in a process of its own, for as long as it may take, and reads its sheet."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from gpu_parts.catalogue import PARTS

GRACE_S = 5.0
"""Seconds after its limit in which a part may still end by itself."""
_LAST_LINES = 3


class Result(NamedTuple):
    """What a part measured."""

    name: str
    seconds: float
    status: str
    """`done`, `cut` (by the time limit), `crashed` or `not measured` (for want of a package)."""
    reason: str
    facts: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]]
    missing: list[tuple[str, str]]
    """What was not measured, and why."""


def measure(name: str, device: str, ends_at: float, program: str) -> Result:
    """Measure a part.

    ends_at  when the part has to be done, in seconds since 1970
    program  gpu.py
    """
    absent = [package for package in (PARTS[name].needs if name in PARTS else ()) if not _is_installed(package)]
    if absent:
        return _without(name, "not measured", f"{', '.join(absent)} not installed")
    started = time.time()
    if ends_at <= started:
        return _without(name, "cut", "no time was left")
    with tempfile.TemporaryDirectory(prefix="cxrpipe-gpu-") as scratch:
        sheet, errors = Path(scratch, "sheet"), Path(scratch, "stderr")
        sheet.touch()
        command = [sys.executable, program, "--child", name, "--device", device]
        command += ["--sheet", str(sheet), "--ends-at", str(ends_at)]
        with errors.open("wb") as stderr:
            child = subprocess.Popen(
                command, env=_environment(scratch), stdout=stderr, stderr=stderr, start_new_session=True
            )
            status = _wait(child, ends_at - started + GRACE_S)
        lines = errors.read_text(errors="replace")
        facts, tables, missing = _read(sheet)
    sys.stderr.write(lines)
    outcome, reason = "done", ""
    if status is None:
        outcome, reason = "cut", f"the part was cut after {time.time() - started:.0f} s"
    elif status:
        last = " ".join(" ".join(lines.strip().splitlines()[-_LAST_LINES:]).split())
        outcome, reason = "crashed", f"the process ended with status {status}: {last[-300:]}"
    if reason:
        missing.append(("the rest", reason))
    return Result(name, time.time() - started, outcome, reason, facts, tables, missing)


def _without(name: str, status: str, reason: str) -> Result:
    return Result(name, 0.0, status, reason, {}, {}, [("everything", reason)])


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _environment(scratch: str) -> dict[str, str]:
    """The environment of a part. Temporary files go to `scratch`; log lines are JSON, which needs no rich."""
    return os.environ | {
        "TMPDIR": scratch,
        "RAY_TMPDIR": tempfile.gettempdir(),  # the path of a socket has 107 characters at most
        "CXRPIPE_LOG": "json",
        "PYTHONUNBUFFERED": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for a child. None where it takes longer: then it is ended with all that it started."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return None
    except KeyboardInterrupt:  # the child has a session of its own, which Ctrl-C does not reach
        os.killpg(child.pid, signal.SIGKILL)
        raise


def _read(sheet: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]], list[tuple[str, str]]]:
    """Facts, tables, and what is missing."""
    facts: dict[str, Any] = {}
    tables: dict[str, list[dict[str, Any]]] = defaultdict(list)
    missing: list[tuple[str, str]] = []
    for line in sheet.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the line at which the part was killed
            continue
        if "fact" in entry:
            facts[entry["fact"]] = entry["value"]
        elif "table" in entry:
            tables[entry["table"]].append(entry["row"])
        else:
            missing.append((entry["missing"], entry["reason"]))
    return facts, dict(tables), missing
