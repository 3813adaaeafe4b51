"""Runs several commands of cxrpipe one after another in one process, on one Ray session.

    python tests/helpers/many_jobs.py COMMANDS.json STATUSES.json

A session takes ten seconds to start, and a command on a few files two. What a person would see on the terminal is
this program's output: `==== NAME` before each command.
"""

import json
import sys
import traceback
from pathlib import Path

from cxrpipe import cli
from cxrpipe.on_ray import session

if __name__ == "__main__":
    commands = json.loads(Path(sys.argv[1]).read_text())  # name → [program, argument, …]
    statuses = {}
    with session.session():
        for name, (program, *argv) in commands.items():
            print(f"==== {name}", flush=True)
            try:
                statuses[name] = cli._run(program, argv)
            except Exception:  # noqa: BLE001  # as Python ends a program; the commands behind it run all the same
                traceback.print_exc()
                statuses[name] = 1
    Path(sys.argv[2]).write_text(json.dumps(statuses))
