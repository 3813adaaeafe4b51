"""Parses findings, labels, ages and view positions of tables and DICOM headers into the words of the study table."""

import functools
import re
import unicodedata

from cxrpipe.errors import ConfigError
from cxrpipe.models.spelling import NOTHING_FOUND, finding

NO_VALUE = {"", "nan", "na", "<na>", "n/a", "#n/a", "null", "none"}
"""Text that pandas, R and Excel write into an empty cell, in lower case."""
OLDEST = 120.0
"""Highest age in years. Ages above are typing errors: NIH ChestX-ray14 has ages up to 414."""

_LEFT = "LEFT|LT|L|LINKS|LINKE|GAUCHE|IZQUIERD[AO]|IZQ|SINISTR[AO]"
_RIGHT = "RIGHT|RT|R|RECHTS|RECHTE|DROITE?|DERECH[AO]|DER|DESTR[AO]"
_LATERAL = r"LAT|LATERAL\w*|LATERO\w*|PROFIL\w*|PERFIL\w*|SEITLICH\w*|SEITENAUFNAHME|ZIJDELINGS|BOCZN\w*|SWIMMERS?"
_WORDS = {
    "PA": r"P ?A|POST\w* ?(TO )?ANT\w*|DORSO ?VENTRAL\w*",
    "AP": r"A ?P|ANT\w* ?(TO )?POST\w*|VENTRO ?DORSAL\w*",
    "FRONTAL": r"FRONT\w*|FRENTE|FACE|LORDOTIC\w*",
    "LL": rf"LL|({_LEFT}) ?({_LATERAL})|({_LATERAL}) ({_LEFT})",
    "RL": rf"RL|({_RIGHT}) ?({_LATERAL})|({_LATERAL}) ({_RIGHT})",
    "LATERAL": _LATERAL,
    "OBLIQUE": r"OBL\w*|SCHRAEG\w*|SCHRAG\w*|[LR]L?[AP]?O",
    "DECUBITUS": r"(LEFT|RIGHT|L|R)? ?LAT\w* (DECUB\w*|DEC)|DECUB\w* LAT\w*( (LEFT|RIGHT|L|R))?|DECUB\w*|[LR]LD",
    "CROSS-TABLE": r"(DORSAL|VENTRAL) DECUB\w*",
}
_VIEWS = {name: re.compile(rf"\b(?:{words})\b") for name, words in _WORDS.items()}


def is_nothing(text: str) -> bool:
    """Whether a label says "no finding"."""
    return finding(text).lower() in NOTHING_FOUND


def parse_age(text: str) -> float | None:
    """Parse an age such as `58`, `058Y`, `006M` or `7,5` into years; None where the text is no age.

    `is_an_age` judges the number.
    """
    match = re.fullmatch(r"\s*(-?\d+(?:[.,]\d+)?)\s*([YMWD]?)\s*", text.upper())
    if not match:
        return None
    per_year = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return float(match[1].replace(",", ".")) / per_year


def is_an_age(years: float) -> bool:
    return 0 <= years <= OLDEST


def parse_sex(text: str) -> str | None:
    """Parse a sex such as `M` or `Male` into M, F or O, as in DICOM (0010,0040); None where the text names none."""
    letter = text.strip().upper()[:1]
    return letter if letter in ("M", "F", "O") else None


def parse_view_position(text: str) -> str | None:
    """Parse the words of DICOM headers, tables and file names into PA, AP, LL, RL or LATERAL; None where no word fits.

    None counts as frontal. A word for "frontal" gives None, since it names no direction of the beam. So does a lateral
    decubitus film: the patient lies on the side, and the beam is frontal. LATERAL means "not frontal": an oblique film
    (LAO, RPO, RLO) is LATERAL too, and so is a cross-table film of a patient on the back. A text that names a frontal
    and a lateral view, such as `PA/LAT`, names an examination and no view: None.
    """
    views = _views(text)
    if not _is_one_view(views):
        return None
    if "OBLIQUE" in views:
        return "LATERAL"
    named = views - {"FRONTAL"}
    if len(named) <= 1:
        return next(iter(named), None)
    return None if named <= {"PA", "AP"} else "LATERAL"


def names_a_view(text: str) -> bool:
    """Whether a text names one kind of view: frontal, lateral or oblique."""
    return _is_one_view(_views(text))


def _is_one_view(views: frozenset[str]) -> bool:
    frontal, lateral = views & {"PA", "AP", "FRONTAL"}, views & {"LL", "RL", "LATERAL"}
    return bool(views) and ("OBLIQUE" in views or not (frontal and lateral))


@functools.lru_cache(1024)
def _views(text: str) -> frozenset[str]:
    """Find the views that a text names, as keys of `_WORDS`. A decubitus film becomes FRONTAL or LATERAL."""
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = " ".join(re.findall(r"[A-Z]+", ascii_only.upper()))
    if words == "L" or _VIEWS["CROSS-TABLE"].search(words):  # `L`: PadChest and Open-i
        return frozenset({"LATERAL"})
    words, lying = _VIEWS["DECUBITUS"].subn("", words)
    views = {name for name, pattern in _VIEWS.items() if pattern.search(words)}
    if views & {"LL", "RL"}:
        views.discard("LATERAL")
    return frozenset(views or ({"FRONTAL"} if lying else ()))


def parse_label(text: str, where: str) -> float | None:
    """Parse a label: 1 present, 0 absent, -1 uncertain; None (an empty cell) not mentioned.

    `True` and `False` count too: they come from boolean columns.
    """
    word = text.strip().lower()
    if word in NO_VALUE:
        return None
    try:
        value = {"true": 1.0, "false": 0.0}.get(word) if word in ("true", "false") else float(word.replace(",", "."))
    except ValueError:
        value = None
    if value not in (1.0, 0.0, -1.0):
        raise ConfigError(f"{where}: label {text!r}; expected 1, 0, -1 (uncertain) or nothing")
    return value


def agreed(first: dict[str, float | None], second: dict[str, float | None]) -> dict[str, float | None]:
    """Keep the labels on which two rows of one study agree. Others become None, which training ignores."""
    return {name: label if second.get(name) == label else None for name, label in first.items()}
