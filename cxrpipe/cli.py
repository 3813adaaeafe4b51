"""The command line: `cxrpipe NAME …` and `python jobs/NAME.py …` are the same programs, with one parser builder."""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args, get_origin

import jsonargparse

from cxrpipe import __version__, config
from cxrpipe.errors import ConfigError, CxrError

REFUSED = 2


class Program(NamedTuple):
    settings: type
    """Its settings; their docstring is the program's help."""
    module: str
    """Where its `run(settings) -> exit status` lives; imported only when it runs."""


PROGRAMS = {
    "index": Program(config.IndexConfig, "cxrpipe.index"),
    "train": Program(config.TrainConfig, "cxrpipe.on_ray.train"),
    "score": Program(config.ScoreConfig, "cxrpipe.on_ray.score"),
    "evaluate": Program(config.EvaluateConfig, "cxrpipe.evaluate"),
    "demo": Program(config.DemoConfig, "cxrpipe.demo"),
}


def main(name: str | None = None, argv: Sequence[str] | None = None) -> NoReturn:
    """Run one program and exit with its status. Without a name the first argument is the name."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if name is None:
        name, argv = _name(argv)
    sys.exit(_run(name, argv))


def _run(name: str, argv: list[str]) -> int:
    try:
        settings = parse(name, argv)
        run: Callable[[Any], int] = importlib.import_module(PROGRAMS[name].module).run
        return run(settings)
    except CxrError as error:
        print(f"cxrpipe {name}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"cxrpipe {name}: interrupted; the same command goes on from here", file=sys.stderr)
        return 1


def _name(argv: list[str]) -> tuple[str, list[str]]:
    if argv[:1] == ["--version"]:
        print(f"cxrpipe {__version__}")
        sys.exit(0)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(0 if argv else REFUSED)
    if argv[0] not in PROGRAMS:
        print(f"cxrpipe: no program {argv[0]!r}; expected one of {', '.join(PROGRAMS)}", file=sys.stderr)
        sys.exit(REFUSED)
    return argv[0], argv[1:]


def _overview() -> str:
    lines = ["Bulk scoring of chest X-ray archives. Research use, not a medical device.", ""]
    for name, program in PROGRAMS.items():
        first_line, *_ = (program.settings.__doc__ or name).splitlines()
        lines.append(f"  cxrpipe {name:9} {first_line}")
    return "\n".join([*lines, "", "cxrpipe NAME --help shows every setting."])


def parser(name: str) -> jsonargparse.ArgumentParser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.set_dumper("toml", _as_toml)
    settings = PROGRAMS[name].settings
    built = jsonargparse.ArgumentParser(
        prog=f"cxrpipe {name}",
        description=settings.__doc__,
        parser_mode="toml",
        exit_on_error=False,
        allow_abbrev=False,  # --model for --models would miss its comma list, and --arch would name the --archive
    )
    built.add_argument("--config", action="config", help="A TOML file of settings; flags come on top.")
    built.add_class_arguments(settings, None, fail_untyped=True)
    return built


def _as_toml(settings: dict[str, Any]) -> str:
    """Settings as --config reads them: TOML has JSON's strings, numbers, booleans and lists. Null is left out."""
    values = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
        for name, value in settings.items()
        if value is not None and not isinstance(value, dict)
    ]
    sections = [f"\n[{name}]\n{_as_toml(value)}" for name, value in settings.items() if isinstance(value, dict)]
    return "".join(values + sections)


def parse(name: str, argv: Sequence[str]) -> Any:
    """Arguments → frozen settings; ConfigError with one line where they do not fit."""
    built, settings = parser(name), PROGRAMS[name].settings
    try:
        found = vars(built.instantiate(built.parse_args(_as_expected(argv, settings))))
        return settings(**{setting: value for setting, value in found.items() if setting != "config"})
    except jsonargparse.ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from None


def _as_expected(argv: Sequence[str], settings: type) -> list[str]:
    """What people type → what jsonargparse reads: `-` as `_` in names, `a,b` for a list, a flag alone for true,
    flags on top of a file."""
    kinds = _kinds(settings)
    words: list[str] = []
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flag = "--" + flag[2:].replace("-", "_")
            apart = equals and flag != "--print_config"  # its value may be left out, so it stays behind its `=`
            words += [flag, value] if apart else [flag + equals + value]
        else:
            words.append(word)
    typed: list[str] = []
    for word, following in zip(words, [*words[1:], "--"], strict=False):
        kind = kinds.get(typed[-1].removeprefix("--")) if typed else None
        typed.append(_as_list(word, kind) if get_origin(kind) is tuple else word)
        if kinds.get(word.removeprefix("--")) is bool and following.startswith("--"):
            typed.append("true")
    return _config_first(typed)


def _as_list(word: str, kind: Any) -> str:
    """`a,b` → `["a", "b"]`, `1,2` → `[1, 2]` where the list is of numbers."""
    if word.startswith(("--", "[")):
        return word
    parts = [part.strip() for part in word.split(",") if part.strip()]
    return json.dumps(parts) if get_args(kind)[0] is str else f"[{', '.join(parts)}]"


def _kinds(settings: type, prefix: str = "") -> dict[str, Any]:
    """Flag → its type, those of sections included."""
    found: dict[str, Any] = {}
    for name, kind in settings.__annotations__.items():
        found |= _kinds(kind, f"{prefix}{name}.") if is_dataclass(kind) else {prefix + name: kind}  # type: ignore[arg-type]
    return found


def _config_first(words: list[str]) -> list[str]:
    """The last word wins, and flags are to win over a file wherever it is named."""
    places = [place for place, word in enumerate(words[:-1]) if word == "--config"]
    for place in places:
        if not Path(words[place + 1]).is_file():
            raise ConfigError(f"config {words[place + 1]}: no such file; expected a TOML file of settings")
    first = [word for place in places for word in words[place : place + 2]]
    return first + [word for place, word in enumerate(words) if not {place, place - 1}.intersection(places)]
