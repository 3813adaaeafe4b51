"""Arguments, files of settings and frozen dataclasses: jsonargparse, and what people type made as it expects it.

A setting's `metadata` may say `alone`, the value of its flag when none follows, and `bare_words`: words without a flag
are its value.
"""

import json
from collections.abc import Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import jsonargparse

from cxrpipe.errors import ConfigError


def parse(program: str, settings: type, argv: Sequence[str]) -> Any:
    """Arguments → frozen settings; ConfigError with one line where they do not fit."""
    built = _parser(program, settings)
    try:
        found = vars(built.instantiate(built.parse_args(_as_expected(argv, settings))))
        return settings(**{setting: value for setting, value in found.items() if setting != "config"})
    except jsonargparse.ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from None


def _parser(program: str, settings: type) -> jsonargparse.ArgumentParser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.set_dumper("toml", _as_toml)
    built = jsonargparse.ArgumentParser(
        prog=program,
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


def _as_expected(argv: Sequence[str], settings: type) -> list[str]:
    """What people type → what jsonargparse reads: `-` as `_` in names, `a,b` for a list, bare flags and bare words.

    The last word wins there, and flags are to win over a file wherever it is named: files come first.
    """
    known = _fields(settings)
    bare_name = next((name for name, each in known.items() if each.metadata.get("bare_words")), None)
    files: list[str] = []
    words: list[str] = []
    bare_words: list[str] = []
    left = list(argv)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            (bare_words if bare_name else words).append(word)
            continue
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name not in known and name != "config":
            words.append(f"--{name}{equals}{value}")
            continue
        if not equals and (alone := _alone(known.get(name), left)):
            value = alone
        elif not equals:
            value = left.pop(0) if left else ""
        if name == "config":
            files += _settings_file(value)
        else:
            words += [f"--{name}", _as_list(value, known[name]) if _is_list(known[name]) else value]
    if bare_words and bare_name:
        words += [f"--{bare_name}", json.dumps(bare_words) if _is_list(known[bare_name]) else " ".join(bare_words)]
    return files + words


def _fields(settings: type, section: str = "") -> dict[str, Field]:
    """Every setting by its flag: `limit`, `resources.threads`."""
    found: dict[str, Field] = {}
    for each in fields(settings):
        if is_dataclass(each.type):
            found |= _fields(cast(type, each.type), f"{section}{each.name}.")
        else:
            found[section + each.name] = each
    return found


def _alone(setting: Field | None, left: list[str]) -> str | None:
    """What a flag without a value means, where it may stand alone and does."""
    if setting is None or (left and not left[0].startswith("--") and setting.type is not bool):
        return None
    if setting.type is bool:
        return None if left and left[0] in ("true", "false") else "true"
    return setting.metadata.get("alone")


def _is_list(setting: Field) -> bool:
    return get_origin(setting.type) is tuple


def _as_list(value: str, setting: Field) -> str:
    """`a,b` → `["a", "b"]`, `1,2` → `[1, 2]` where the list is of numbers."""
    if value.startswith("["):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    return json.dumps(parts) if get_args(setting.type)[0] is str else f"[{', '.join(parts)}]"


def _settings_file(path: str) -> list[str]:
    if not Path(path).is_file():
        raise ConfigError(f"config {path}: no such file; expected a TOML file of settings")
    return ["--config", path]
