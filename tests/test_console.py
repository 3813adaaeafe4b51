"""What a person sees while a program runs."""

import io

from cxrpipe import console


def test_without_a_terminal_a_line_says_how_far_it_is_and_what_is_noted(monkeypatch, capsys):
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)
    with console.progress("epoch 1, steps", 10) as advance:
        advance(5, "loss 0.5000")
        advance(5)
    first, second = capsys.readouterr().err.splitlines()
    assert "epoch 1, steps: 5 of 10" in first
    assert first.endswith("loss 0.5000")
    assert second.endswith("s left")


def test_on_a_terminal_a_bar_shows_the_note(monkeypatch):
    screen = console.Console(force_terminal=True, width=160, file=io.StringIO())
    monkeypatch.setattr(console, "_err", lambda: screen)
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    with console.progress("epoch 1, steps", 10) as advance:
        advance(5, "loss 0.5000, rate 1.0e-03")
    shown = screen.file.getvalue()
    assert "5/10" in shown
    assert "loss 0.5000, rate 1.0e-03" in shown
