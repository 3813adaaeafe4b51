"""`benchmarks/embed.py`, small: a vector of every view exactly once across a kill of the driver."""

import subprocess
import sys

import pytest
from processes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_every_view_has_its_vector_exactly_once_across_a_kill() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/embed.py"), "--views", "3000"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "exactly once: 3,000 of 3,000 studies, 3,000 vectors of 512 numbers" in ended.stdout
