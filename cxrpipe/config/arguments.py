"""Words of a command line and TOML files → the frozen settings of a program. jsonargparse reads and checks the values.

Flags are spelled with `-` or `_`. A list is written `A,B`. A switch needs no value: `--explain`, `--no-explain`,
`--explain false`. What `cxrpipe.config.outline` says of the metadata of a field holds here.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import jsonargparse

from cxrpipe import console
from cxrpipe.config import help_page, outline
from cxrpipe.config.words import Assignment, Known, from_file, from_flags
from cxrpipe.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


def parse(program: str, settings: type[S], argv: Sequence[str]) -> S:
    """Arguments → frozen settings; ConfigError with one line where they do not fit. Flags overrule files."""
    general, words = general_flags(argv)
    if general.help:
        console.out().print(help_page.page(settings))
        sys.exit(0)
    known = Known(program, settings)
    assigned = [assignment for path in general.config for assignment in from_file(path, known)]
    assigned += from_flags(words, known)
    values = _checked(assigned, settings)
    if general.print_config:
        console.out().print(_as_toml(values), end="")
        sys.exit(0)
    _refuse_missing(assigned, settings)
    return _built(settings, values)


def general_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that every program has (`help_page.EVERY_PROGRAM`), and the other words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--print-config", "--print_config", action="store_true")
    try:
        return parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error).removeprefix("argument ")) from None


def _parser(settings: type) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(parser_mode="toml", exit_on_error=False, allow_abbrev=False, add_help=False)
    for setting in outline.settings(settings):
        default = setting.field.default
        parser.add_argument(setting.flag, type=setting.field.type, default=None if default is MISSING else default)
    return parser


def _checked(assigned: Sequence[Assignment], settings: type) -> dict[str, Any]:
    """The values of all settings, nested as their sections; ConfigError for one of the wrong type."""
    parser = _parser(settings)
    try:
        return dict(parser.parse_args([assignment.word for assignment in assigned]).as_dict())
    except jsonargparse.ArgumentError as error:
        for assignment in assigned:
            _refuse_wrong_type(assignment, parser)
        raise ConfigError(" ".join(str(error).split())) from None


def _refuse_wrong_type(assignment: Assignment, parser: jsonargparse.ArgumentParser) -> None:
    try:
        parser.parse_args([assignment.word])
    except jsonargparse.ArgumentError:
        expected = assignment.setting.expected
        raise ConfigError(f"{assignment.origin} {assignment.text!r}; expected {expected}") from None


def _refuse_missing(assigned: Sequence[Assignment], settings: type) -> None:
    names = {assignment.setting.name for assignment in assigned}
    required = [setting for setting in outline.settings(settings) if setting.field.default is MISSING]
    if missing := [help_page.invocation(setting) for setting in required if setting.name not in names]:
        raise ConfigError(f"missing: {', '.join(missing)}. Example: {outline.describe(settings).example}")


def _built(settings: type[S], values: Mapping[str, Any]) -> S:
    return settings(
        **{
            field.name: _built(field.type, values[field.name])
            if isinstance(field.type, type) and is_dataclass(field.type)
            else values[field.name]
            for field in fields(settings)
        }
    )


def _as_toml(settings: Mapping[str, Any]) -> str:
    """Settings as --config reads them: TOML has JSON's strings, numbers, booleans and lists. None is left out."""
    values = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
        for name, value in settings.items()
        if value is not None and not isinstance(value, dict)
    ]
    sections = [f"\n[{name}]\n{_as_toml(value)}" for name, value in settings.items() if isinstance(value, dict)]
    return "".join(values + sections)
