"""What settings must be, said in one way."""

from collections.abc import Sequence

from cxrpipe.errors import ConfigError


def one_source(archive: str | None, studies: str | None) -> None:
    if (archive is None) == (studies is None):
        raise ConfigError("name either --archive URL or --studies URL")


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name} {value!r}; expected one of {', '.join(known)}")


def at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")


def between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} must lie between {least} and {most}, got {value}")
