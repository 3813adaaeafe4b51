"""Checks of setting values. A failed check raises ConfigError and names the setting as a person types it."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from cxrpipe.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def flag(name: str) -> str:
    """`max_failed_fraction` → `--max-failed-fraction`."""
    return "--" + name.replace("_", "-")


def one_source(archive: str | None, studies: str | None) -> None:
    if (archive is None) == (studies is None):
        raise ConfigError("name either --archive URL or --studies URL")


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{flag(name)} {value!r}; expected one of {', '.join(known)}")


def known_words(settings: "DataclassInstance", section: str = "") -> None:
    """Refuse a word that the Literal type of its field does not list; parsed settings were checked, others were not."""
    for field in fields(settings):
        if get_origin(field.type) is Literal:
            one_of(section + field.name, getattr(settings, field.name), get_args(field.type))


def at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ConfigError(f"{flag(name)} must be at least {least}, got {value}")


def more_than(name: str, value: float, bound: float) -> None:
    if not value > bound:
        raise ConfigError(f"{flag(name)} must be more than {bound}, got {value}")


def less_than(name: str, value: float, bound: float) -> None:
    if not value < bound:
        raise ConfigError(f"{flag(name)} must be less than {bound}, got {value}")


def between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{flag(name)} must lie between {least} and {most}, got {value}")


def parquet(name: str, url: str) -> None:
    if not url.endswith(".parquet"):
        raise ConfigError(f"{flag(name)} {url!r}; expected a name that ends in .parquet")
