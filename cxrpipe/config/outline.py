"""What `--help` and docs/settings.md say of a settings class: its sentence, its example, and its settings in sections.

A settings class documents itself. Its docstring is one sentence, then a paragraph `Example: …`, then what else there
is to say. The string under a field is the meaning of that setting. `outline`, where a class has one, is the order of
its help: a heading → the names of its settings. A field that is itself a settings class is a section of its own.

`metadata` of a field:
    alone       the value of a flag that stands alone: --retry
    empty_items an empty item of a list counts: `A,,B` has three
    bare_words  words without a flag are the value of this setting; what `--help` calls them
    old_name    an earlier name of the setting, which still works on the command line and in TOML files
    old_words   earlier words for its values → today's
"""

import functools
import inspect
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from cxrpipe.config.checks import flag

Outline = Mapping[str, str]
EVERYBODY = "settings that everybody needs"

_UNITS = {"_px": "PIXELS", "_s": "SECONDS", "_deg": "DEGREES", "_fraction": "FRACTION"}
_NUMBERS = {int: "N", float: "X"}


class Setting(NamedTuple):
    """One setting of a program: a field of its settings class, or of a section of it."""

    owner: type
    field: Field[Any]
    section: str
    """`resources.`, or empty."""

    @property
    def name(self) -> str:
        """As in a TOML file: `limit`, `resources.threads`."""
        return self.section + self.field.name

    @property
    def flag(self) -> str:
        return flag(self.name)

    @property
    def old_names(self) -> tuple[str, ...]:
        old_name = self.field.metadata.get("old_name")
        return (self.section + old_name,) if old_name else ()

    @property
    def kind(self) -> Any:
        """Its type; where None is a value too, the other one."""
        hint = self.field.type
        if get_origin(hint) in (Union, types.UnionType):
            hint = next(kind for kind in get_args(hint) if kind is not type(None))
        return hint

    @property
    def is_switch(self) -> bool:
        return self.kind is bool

    @property
    def alone(self) -> str | None:
        """The value of the flag where no value follows; None where one must."""
        return "true" if self.is_switch else self.field.metadata.get("alone")

    @property
    def bare_words(self) -> str | None:
        """What words without a flag are, where they are the value of this setting: `FILE...`."""
        return self.field.metadata.get("bare_words")

    @property
    def item(self) -> Any:
        """Type of the items of a list; None where the setting is no list."""
        return _plain(get_args(self.kind)[0]) if get_origin(self.kind) is tuple else None

    @property
    def value(self) -> str:
        """What a person types for it: `N`, `URL`, `auto|any`; empty for a switch."""
        if self.item:
            number = _NUMBERS.get(self.item)
            return f"{number},{number}" if number else "A,B"
        if get_origin(self.kind) is Annotated:
            return str(get_args(self.kind)[1])
        if get_origin(self.kind) is Literal:
            return "|".join(get_args(self.kind))
        unit = next((unit for suffix, unit in _UNITS.items() if self.name.endswith(suffix)), None)
        return unit or _NUMBERS.get(self.kind, "")

    @property
    def expected(self) -> str:
        """What a value must be, for errors."""
        if get_origin(self.kind) is Literal:
            return f"one of {', '.join(get_args(self.kind))}"
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        of_items = {int: "whole numbers with commas between", float: "numbers with commas between"}
        return of_items.get(self.item) or words.get(_plain(self.kind)) or f"a value, {self.value}"

    @property
    def default(self) -> str:
        """The default as a person reads it; empty where nothing stands for the setting when it is left out."""
        default = self.field.default
        if default is MISSING:
            return "required"
        if self.is_switch:
            return f"on; {flag('no_' + self.name)} turns it off" if default else "off"
        shown = f"{default:g}" if isinstance(default, float) else default
        if isinstance(default, tuple):
            shown = ",".join(map(str, default))
        return "" if default in (None, (), "") else f"default: {shown}"

    @property
    def meaning(self) -> str:
        return _meanings(self.owner)[self.field.name]


class Section(NamedTuple):
    title: str
    about: str
    settings: tuple[Setting, ...]


class Description(NamedTuple):
    sentence: str
    example: str
    more: str


@functools.cache
def sections(program: type) -> tuple[Section, ...]:
    """The settings of a program in the order of its outline, then a section for every nested settings class."""
    plain = {field.name: Setting(program, field, "") for field in fields(program) if not is_dataclass(field.type)}
    outline: Outline = getattr(program, "outline", {EVERYBODY: " ".join(plain)})
    outlined = [Section(title, "", tuple(plain[name] for name in names.split())) for title, names in outline.items()]
    nested = [(field.name, field.type) for field in fields(program) if isinstance(field.type, type)]
    return (*outlined, *(_nested(name, owner) for name, owner in nested if is_dataclass(owner)))


def settings(program: type) -> list[Setting]:
    return [setting for section in sections(program) for setting in section.settings]


def describe(program: type) -> Description:
    """The parts of the docstring of a settings class."""
    sentence, example, *more = inspect.cleandoc(program.__doc__ or "").split("\n\n")
    return Description(
        _one_line(sentence), _one_line(example).removeprefix("Example: "), " ".join(map(_one_line, more))
    )


def _nested(name: str, owner: type) -> Section:
    return Section(name, _one_line(owner.__doc__), tuple(Setting(owner, field, f"{name}.") for field in fields(owner)))


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


@functools.cache
def _meanings(owner: type) -> dict[str, str]:
    """The strings under the fields of a settings class and of its bases."""
    from docstring_parser import parse_from_object  # takes 50 ms; only --help, errors and docs/settings.md need it

    bases = reversed(owner.__mro__[:-1])  # all but object
    return {param.arg_name: _one_line(param.description) for base in bases for param in parse_from_object(base).params}


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
