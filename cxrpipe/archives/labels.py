"""Findings, labels, ages and view positions as tables and DICOM headers write them → as the study table has them."""

import functools
import re
import unicodedata

from cxrpipe.errors import ConfigError

NOTHING_FOUND = {"no_finding", "normal", "healthy", "negative", "none"}
"""Spellings of "no finding", which is never a finding itself."""
NO_VALUE = {"", "nan", "na", "<na>", "n/a", "#n/a", "null", "none"}
"""What pandas, R and Excel write where a cell is empty, in lower case."""
OLDEST = 120.0
"""Years. Ages beyond it are typing errors: NIH ChestX-ray14 has ages up to 414."""

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


def finding(text: str) -> str:
    """`Pleural Effusion` → `Pleural_Effusion`; a folder's `PNEUMONIA` → `Pneumonia`. Other spellings stay."""
    name = re.sub(r"\W+", "_", text.strip()).strip("_")
    return name.title() if name.isupper() and len(name) > 3 else name


def is_nothing(text: str) -> bool:
    return finding(text).lower() in NOTHING_FOUND


def parse_age(text: str) -> float | None:
    """Years from `58`, `058Y`, `006M`, `7,5`; null where it says nothing. `is_an_age` judges the number."""
    match = re.fullmatch(r"\s*(-?\d+(?:[.,]\d+)?)\s*([YMWD]?)\s*", text.upper())
    if not match:
        return None
    per_year = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return float(match[1].replace(",", ".")) / per_year


def is_an_age(years: float) -> bool:
    return 0 <= years <= OLDEST


def parse_sex(text: str) -> str | None:
    """M, F or O, as DICOM has it (0010,0040), from `M` or `Male`; null where it says nothing."""
    letter = text.strip().upper()[:1]
    return letter if letter in ("M", "F", "O") else None


def parse_view_position(text: str) -> str | None:
    """PA, AP, LL, RL or LATERAL, from the words of DICOM headers, tables and file names; null where they name none.

    Null counts as frontal. It is what a word for "frontal" gives, for it names no direction of the beam, and so does a
    lateral decubitus film, on which the patient lies on the side and the beam is frontal. LATERAL means "not frontal":
    an oblique film (LAO, RPO, RLO) is LATERAL too, and so is a cross-table film of a patient on the back. A text that
    names a frontal and a lateral view, such as `PA/LAT`, names an examination and no view: null.
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
    """Whether a text says that a view is frontal, lateral or oblique, and not two of them."""
    return _is_one_view(_views(text))


def _is_one_view(views: frozenset[str]) -> bool:
    frontal, lateral = views & {"PA", "AP", "FRONTAL"}, views & {"LL", "RL", "LATERAL"}
    return bool(views) and ("OBLIQUE" in views or not (frontal and lateral))


@functools.lru_cache(1024)
def _views(text: str) -> frozenset[str]:
    """The views that the words of a text name, by the keys of `_WORDS`, a decubitus film as frontal or lateral."""
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
    """1 present, 0 absent, -1 uncertain, empty not mentioned; `True` and `False` are what a boolean column becomes."""
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
    """The labels on which two rows of one study agree; null for the others, which training then ignores."""
    return {name: label if second.get(name) == label else None for name, label in first.items()}
