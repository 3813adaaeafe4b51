"""The command line: `cxrpipe NAME …`, `python -m cxrpipe NAME …` and `python jobs/NAME.py …` are the same programs."""

import contextlib
import difflib
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from cxrpipe import __version__, config, console
from cxrpipe.config import outline
from cxrpipe.errors import CxrError, ExitStatus


class Program(NamedTuple):
    settings: type
    """Its settings class, whose docstring describes the program."""
    module: str
    """The module of its `run(settings) -> exit status`; imported only when the program runs."""


PROGRAMS = {
    "index": Program(config.IndexConfig, "cxrpipe.programs.index"),
    "train": Program(config.TrainConfig, "cxrpipe.programs.train"),
    "score": Program(config.ScoreConfig, "cxrpipe.programs.score"),
    "nightly": Program(config.NightlyConfig, "cxrpipe.programs.nightly"),
    "evaluate": Program(config.EvaluateConfig, "cxrpipe.programs.evaluate"),
    "predict": Program(config.PredictConfig, "cxrpipe.programs.predict"),
    "adopt": Program(config.AdoptConfig, "cxrpipe.programs.adopt"),
    "calibrate": Program(config.CalibrateConfig, "cxrpipe.programs.calibrate"),
    "probe": Program(config.ProbeConfig, "cxrpipe.programs.probe"),
    "compare": Program(config.CompareConfig, "cxrpipe.programs.compare"),
    "show": Program(config.ShowConfig, "cxrpipe.programs.show"),
    "review": Program(config.ReviewConfig, "cxrpipe.programs.review"),
    "similar": Program(config.SimilarConfig, "cxrpipe.programs.similar"),
    "export": Program(config.ExportConfig, "cxrpipe.programs.export"),
    "forget": Program(config.ForgetConfig, "cxrpipe.programs.forget"),
    "demo": Program(config.DemoConfig, "cxrpipe.programs.demo"),
}


def main(name: str | None = None, argv: Sequence[str] | None = None) -> NoReturn:
    """Run one program and exit with its status. Without a name, the first argument names the program."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if name is None:
        name, argv = _name(argv)
    sys.exit(_run(name, argv))


def _run(name: str, argv: list[str]) -> int:
    with console.about(program=name), _interrupted_by_sigterm():
        try:
            settings = parse(name, argv)
            run: Callable[[Any], int] = importlib.import_module(PROGRAMS[name].module).run
            return run(settings)
        except CxrError as error:
            console.complain(name, error)
            return error.exit_status
        except KeyboardInterrupt:
            console.complain(name, "interrupted; the same command goes on from here")
            return ExitStatus.BROKE


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM (`kill`, systemd, Kubernetes, `ray job stop`) as Ctrl-C, so that the lock is released."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _name(argv: list[str]) -> tuple[str, list[str]]:
    if argv[:1] == ["--version"]:
        console.out().print(f"cxrpipe {__version__}")
        sys.exit(ExitStatus.DONE)
    if not argv or argv[0] in ("-h", "--help"):
        console.out().print(_overview())
        sys.exit(ExitStatus.DONE if argv else ExitStatus.REFUSED)
    if argv[0] not in PROGRAMS:
        near = difflib.get_close_matches(argv[0], PROGRAMS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ";"
        print(f"cxrpipe: no program {argv[0]!r}{meant} expected one of {', '.join(PROGRAMS)}", file=sys.stderr)
        sys.exit(ExitStatus.REFUSED)
    return argv[0], argv[1:]


def _overview() -> str:
    lines = [
        "Bulk scoring of chest X-ray archives. Research use, not a medical device.",
        "",
        "Start with: cxrpipe demo --out demo",
        "",
    ]
    lines += [f"  {name:10} {outline.describe(program.settings).sentence}" for name, program in PROGRAMS.items()]
    return "\n".join([*lines, "", "cxrpipe NAME --help shows an example and every setting of a program."])


def parse(name: str, argv: Sequence[str]) -> Any:
    """Arguments of a program → its frozen settings; of `train`, those of a whole folder of recipes."""
    from cxrpipe.config import arguments, recipes  # loads jsonargparse: 40 ms that the overview does not need

    if name == "train" and (folder := recipes.recipe_folder(f"cxrpipe {name}", argv)):
        return folder
    return arguments.parse(f"cxrpipe {name}", PROGRAMS[name].settings, argv)
