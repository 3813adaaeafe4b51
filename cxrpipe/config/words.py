"""What a person wrote, as flags or in a TOML file → settings and the texts of their values."""

import difflib
import json
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxrpipe.config import outline
from cxrpipe.config.outline import Setting
from cxrpipe.errors import ConfigError


class Assignment(NamedTuple):
    setting: Setting
    text: str
    origin: str
    """What the person wrote, for errors: `--limit`, `night.toml: limit`."""

    @property
    def word(self) -> str:
        """The one spelling that the parser knows: `--models=["a", "b"]`."""
        text = self.setting.field.metadata.get("old_words", {}).get(self.text, self.text)
        if self.setting.item:
            text = _as_list(text, self.setting.item, bool(self.setting.field.metadata.get("empty_items")))
        return f"{self.setting.flag}={text}"


class Known:
    """The settings of a program by every name that they have."""

    def __init__(self, program: str, settings: type) -> None:
        self._program = program
        self._settings = outline.settings(settings)
        self._by_name = {name: setting for setting in self._settings for name in (setting.name, *setting.old_names)}

    def find(self, written: str, origin: str) -> Setting:
        setting = self._by_name.get(_name(written))
        if setting is None:
            raise ConfigError(f"{origin}: no such setting; {self._nearest(written)}{self._program} --help shows all")
        return setting

    def switched_off(self, flag: str) -> Setting | None:
        """`--no-explain` → the setting `explain`."""
        setting = self._by_name.get(_name(flag).removeprefix("no_"))
        return setting if setting and setting.is_switch and _name(flag) not in self._by_name else None

    def bare(self, words: list[str]) -> Assignment:
        setting = next((setting for setting in self._settings if setting.bare_words), None)
        if setting is None:
            raise ConfigError(f"{words[0]!r} belongs to no flag; {self._program} --help shows all flags")
        if len(words) > 1 and not setting.item:
            raise ConfigError(f"{' '.join(words)}: expected one {setting.bare_words}")
        return Assignment(setting, json.dumps(words) if setting.item else words[0], str(setting.bare_words))

    def _nearest(self, written: str) -> str:
        """The setting that was probably meant; its section may have been forgotten."""
        names = {setting.field.name: setting for setting in self._settings}
        names |= {setting.name: setting for setting in self._settings}
        near = difflib.get_close_matches(_name(written), names, n=1)
        if not near:
            return ""
        setting = names[near[0]]
        return f"did you mean {setting.flag if written.startswith('--') else setting.name}? "


def _name(written: str) -> str:
    """`--max-failed-fraction` → `max_failed_fraction`."""
    return written.removeprefix("--").replace("-", "_")


def from_flags(words: Sequence[str], known: Known) -> Iterator[Assignment]:
    left, bare = deque(words), list[str]()
    while left:
        word = left.popleft()
        flag, equals, text = word.partition("=")
        if not word.startswith("--"):
            bare.append(word)
        elif not equals and (switch := known.switched_off(flag)):
            yield Assignment(switch, "false", flag)
        else:
            setting = known.find(flag, flag)
            yield Assignment(setting, text if equals else _value(setting, left, flag), flag)
    if bare:
        yield known.bare(bare)


def _value(setting: Setting, left: deque[str], flag: str) -> str:
    """The word after a flag, or what the flag means without one."""
    is_value = bool(left) and not left[0].startswith("--") and (not setting.is_switch or left[0] in ("true", "false"))
    if is_value:
        return left.popleft()
    if setting.alone is None:
        raise ConfigError(f"{flag} has no value; expected {setting.expected}")
    return setting.alone


def from_file(path: str, known: Known) -> Iterator[Assignment]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; expected a TOML file of settings") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigError(f"--config {path}: not a TOML file of settings: {error}") from None
    for name, value in _flat(content):
        origin = f"{path}: {name}"
        yield Assignment(known.find(name, origin), value if isinstance(value, str) else json.dumps(value), origin)


def _flat(content: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{section}{name}.")
        else:
            yield section + name, value


def _as_list(text: str, item: type, empty_items: bool = False) -> str:
    """`a,b` → `["a", "b"]`; `1,2` → `[1, 2]` where the list is of numbers."""
    if text.startswith("["):
        return text
    parts = [part.strip() for part in text.split(",") if part.strip() or empty_items]
    return json.dumps(parts) if item is str else f"[{', '.join(parts)}]"
