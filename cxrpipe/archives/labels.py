"""Findings as the field spells them."""

import re

from cxrpipe.errors import ConfigError

NOTHING_FOUND = {"no_finding", "normal", "healthy", "negative", "none"}
"""Spellings of "no finding", which is never a finding itself."""


def finding(text: str) -> str:
    """`Pleural Effusion` → `Pleural_Effusion`; a folder's `PNEUMONIA` → `Pneumonia`. Other spellings stay."""
    name = re.sub(r"\W+", "_", text.strip()).strip("_")
    return name.title() if name.isupper() and len(name) > 3 else name


def is_nothing(text: str) -> bool:
    return finding(text).lower() in NOTHING_FOUND


def parse_age(text: str) -> float | None:
    """Years from `58`, `058Y`, `006M`; null where it says nothing."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*", text.upper())
    if not match:
        return None
    per_year = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return float(match[1]) / per_year


def parse_sex(text: str) -> str | None:
    """M, F or O, as DICOM has it (0010,0040), from `M` or `Male`; null where it says nothing."""
    letter = text.strip().upper()[:1]
    return letter if letter in ("M", "F", "O") else None


def parse_view_position(text: str) -> str | None:
    """PA, AP, LL or RL, and what they begin (`AP_horizontal`); LATERAL for `L` and `XTABLE LATERAL`; else null."""
    words = re.split(r"[\s_-]+", text.strip().upper())
    if words[0] in ("PA", "AP", "LL", "RL"):
        return words[0]
    return "LATERAL" if words == ["L"] or "LATERAL" in words else None


def parse_label(text: str, where: str) -> float | None:
    """1 present, 0 absent, -1 uncertain, empty not mentioned."""
    if text.strip() == "":
        return None
    try:
        value = float(text)
    except ValueError:
        value = None
    if value not in (1.0, 0.0, -1.0):
        raise ConfigError(f"{where}: label {text!r}; expected 1, 0, -1 (uncertain) or nothing")
    return value
