"""Shenzhen Hospital (Jaeger et al., 2014): radiographs, and masks of both lungs (Stirenko et al., 2018).

One image is one study. The first line of a reading names age and sex. The finding below it is free text, and not used.
"""

import re
from collections.abc import Iterator

from cxrpipe.archives.catalogue import Catalogue, mask_of, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import parse_age, parse_sex
from cxrpipe.archives.layouts.base import Found, Layout, Skipped, Unmatched
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study

_IMAGE = re.compile(r"(?:^|.*/)(CHNCXR_\d{4}_([01]))\.png", re.IGNORECASE)
_MASK = re.compile(r"(?:^|.*/)(CHNCXR_\d{4}_[01])_mask\.png", re.IGNORECASE)
_READING = re.compile(r"(?:^|.*/)(CHNCXR_\d{4}_[01])\.txt", re.IGNORECASE)
_PERSON = re.compile(r"\s*(female|male)(?:\W*(\d+)\s*([ymwd]?))?", re.IGNORECASE)


def recognise(names: Names) -> str | None:
    name = next((name for name in names if _IMAGE.fullmatch(name)), None)
    return f"found {name}" if name else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    masks = {mask[1]: mask_of(file) for file in catalogue.images() if (mask := _MASK.fullmatch(file.name))}
    readings = {reading[1]: file for file in catalogue.files() if (reading := _READING.fullmatch(file.name))}
    seen: set[str] = set()
    for file in catalogue.images():
        if image := _IMAGE.fullmatch(file.name):
            name = image[1]
            seen.add(name)
            age, sex = _person(catalogue, readings.get(name))
            yield Study(
                study_id=name,
                patient_id=name,
                views=(view_of(file),),
                mask_views=(masks[name],) if name in masks else (),
                labels={"Tuberculosis": float(image[2])},
                patient_age=age,
                patient_sex=sex,
            )
        elif not _MASK.fullmatch(file.name):
            yield Skipped(file.url, file.entry, "not named as a Shenzhen image")
    if not seen:
        raise ConfigError(f"{catalogue.archive}: no CHNCXR_*.png; expected the layout of the Shenzhen set")
    yield from (Unmatched(name) for name in {**masks, **readings} if name not in seen)


def _person(catalogue: Catalogue, reading: File | None) -> tuple[float | None, str | None]:
    """Parse age in years and sex from `male 45yrs` or `Female, 8 months`."""
    text = catalogue.read(reading).decode(errors="replace") if reading else ""
    person = _PERSON.match(text)
    if person is None:
        return None, None
    return parse_age((person[2] or "") + (person[3] or "")), parse_sex(person[1])


LAYOUT = Layout(name="shenzhen", recognise=recognise, studies=studies)
