"""docs/operate.md as a new user follows it: its commands, as typed, on a cluster of two nodes on this machine."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import commands
from processes import ROOT
from s3server import free_port

from cxrpipe.cli import PROGRAMS, parse
from cxrpipe.records import read_scores

BIN = Path(sys.executable).parent
HERE = "From a fresh clone to a scored archive, on a cluster of two nodes on one machine"


@pytest.mark.parametrize("line", [line for line in commands("operate.md") if "python jobs/" in line])
def test_every_job_of_the_page_has_settings_that_the_parser_takes(line: str) -> None:
    name, *words = line.partition("python jobs/")[2].split()
    assert name.removesuffix(".py") in PROGRAMS
    parse(name.removesuffix(".py"), words)


def test_the_settings_of_a_night_are_read(tmp_path: Path) -> None:
    (tmp_path / "night.toml").write_text("\n".join(commands("operate.md", language="toml")))
    assert parse("nightly", ["--config", str(tmp_path / "night.toml")]).pseudonymise == "/etc/cxrpipe/key"


class Shell:
    """One shell session. What `ray start` leaves behind stays in the foreground of processes of ours."""

    def __init__(self, home: Path) -> None:
        self.env = {**os.environ, "HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self.env.pop("RAY_AUTH_MODE")
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._port, self._dashboard = free_port(), free_port()
        self._home, self._ready = home, False

    def type(self, line: str) -> str:
        line = line.replace("6379", str(self._port)).replace("8265", str(self._dashboard))
        if line.startswith("ray start"):
            # Without --block the nodes outlive the test, and `ray stop` would end others'. Without a port of its
            # own a node's agent, which takes the jobs, gives way to that of any other Ray on this machine.
            command = [*line.split(), "--block", f"--dashboard-agent-listen-port={free_port()}"]
            with (self._home / "nodes.log").open("a") as log:
                self.nodes.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=log))
            self._wait_for_head()
            return ""
        if line.startswith("ray job") and not self._ready:
            self._wait_for_jobs()
        end = time.monotonic() + 120
        while "No available agent" in (done := self._run(line)).stderr and time.monotonic() < end:
            time.sleep(1)  # of the head, which comes after its dashboard
        assert done.returncode == 0, f"{line}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
        if line.startswith("export"):
            pairs = (self._home / "env").read_text().split("\0")
            self.env |= dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        return done.stdout

    def _run(self, line: str) -> subprocess.CompletedProcess[str]:
        script = f"set -e; {line}\nenv -0 > $HOME/env"
        return subprocess.run(script, shell=True, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=300)

    def _wait_for_head(self) -> None:
        """Without --block the command ends when the head is there."""
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=2):
                return
            assert time.monotonic() < end, (self._home / "nodes.log").read_text()
            time.sleep(0.5)

    def _wait_for_jobs(self) -> None:
        """A person would type the first submission again until the head answers."""
        end = time.monotonic() + 180
        while (asked := self._run("ray job list")).returncode:
            assert all(node.poll() is None for node in self.nodes), (self._home / "nodes.log").read_text()
            assert time.monotonic() < end, asked.stderr[-2000:]
        self._ready = True

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.send_signal(signal.SIGTERM)
        for node in self.nodes:
            node.wait(60)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    opened = Shell(tmp_path)
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.ray
def test_the_page_leads_from_a_clone_to_a_scored_archive(shell: Shell, tmp_path: Path) -> None:
    said = {line: shell.type(line) for line in commands("operate.md", HERE)}
    trained = next(printed for line, printed in said.items() if "jobs/train.py" in line)
    assert "epoch   1 of 1" in trained
    assert "succeeded" in trained
    assert read_scores(str(tmp_path / "cxr" / "scores")).num_rows == 120
    nightly = next(line for line in said if "jobs/nightly.py" in line)
    assert "scored: 120 ok" in said[nightly]
    (account,) = (tmp_path / "cxr" / "scores" / "nights").iterdir()
    assert json.loads(account.read_text())["exit_status"] == 0
    assert "nothing new" in shell.type(nightly)  # the same night again
