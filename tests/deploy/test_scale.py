"""The sizing page stands by its arithmetic."""

import subprocess
import sys

from processes import ROOT


def test_the_table_of_the_page_is_what_its_script_prints():
    printed = subprocess.run(
        [sys.executable, ROOT / "docs/scale.py"], capture_output=True, text=True, check=True
    ).stdout
    assert printed in (ROOT / "docs/scale.md").read_text()
