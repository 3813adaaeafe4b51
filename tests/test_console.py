"""What a person sees while a program runs."""

import io
import subprocess
import sys

import pytest
from rich.table import Table

from cxrpipe import console

NAME = "[bold]x[/red] :lungs: caf\udce9.png"
"""Of a file: markup that does not close, an emoji's code, and a byte that is no UTF-8."""


def test_without_a_terminal_a_line_says_how_far_it_is_and_what_is_noted(monkeypatch, capsys):
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)
    with console.progress("epoch 1, steps", 10) as advance:
        advance(5, "loss 0.5000")
        advance(5)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("epoch 1, steps: 5 of 10, loss 0.5000")
    assert second.endswith("s left")


def test_rate_and_time_left_do_not_count_the_start(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[-1])
    with console.progress("preparing studies", 1_000) as advance:
        for now, done in ((100.0, 100), (102.0, 20), (110.0, 80)):
            clock.append(now)
            advance(done)
    lines = [line.partition("studies: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["100 of 1,000", "200 of 1,000, 10.0/s, 80 s left"]


def test_on_a_terminal_a_bar_shows_the_note(monkeypatch):
    screen = console.Console(force_terminal=True, width=160, file=io.StringIO())
    monkeypatch.setattr(console, "_err", lambda: screen)
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    with console.progress("epoch 1, steps", 10) as advance:
        advance(5, "loss 0.5000, rate 1.0e-03")
    shown = screen.file.getvalue()
    assert "5/10" in shown
    assert "loss 0.5000, rate 1.0e-03" in shown


# ---- nothing that is said ends a program ------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_are_printed_as_they_are_and_what_cannot_be_written_is_escaped(monkeypatch, encoding):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding))
    table = Table("study")
    table.add_row(NAME)
    console.out().print(f"Picture: {NAME}")
    console.out().print(table)
    console.log(f"left out: {NAME}, 1024 × 1024")
    console.complain("score", NAME)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        said = stream.buffer.getvalue().decode(encoding)
        assert said.count("[bold]x[/red] :lungs: caf\\udce9.png") == 2


class Refusing(io.TextIOWrapper):
    """A stream that takes nothing: a closed pipe, a full disk, a file that was closed."""

    def __init__(self, error: Exception) -> None:
        super().__init__(io.BytesIO(), "utf-8")
        self._error = error

    def write(self, _: str) -> int:
        raise self._error

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left"), ValueError("closed file"), None])
def test_lines_and_bars_that_nobody_takes_are_dropped(monkeypatch, error):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, error and Refusing(error))
    console.log("a line")
    console.complain("score", "refused")
    console.out().print("result")
    with console.progress("scoring", 10) as advance:
        advance(5)
        advance(5, "loss 0.5")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_program_whose_reader_has_gone_goes_on_and_ends_with_its_own_status(form):
    code = """if True:
        import os, sys, time
        from cxrpipe import console
        sys.stdin.read()  # until the reader has gone
        for number in range(3):
            console.log(f"line {number}")
            console.out().print("result " * 3_000)
        sys.exit(3)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"CXRPIPE_LOG": form, "PYTHONPATH": ":".join(sys.path)},
    ) as program:
        program.stdout.close()
        program.stderr.close()
        program.stdin.close()
        assert program.wait(60) == 3


@pytest.mark.parametrize("words", ["--help", "score --help", "score --models=a --out=o --archive=x --print-config"])
def test_a_page_whose_reader_has_gone_ends_without_a_traceback(words):
    """As in `cxrpipe score --help | head -1`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrpipe", *words.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0
    process.stderr.close()
