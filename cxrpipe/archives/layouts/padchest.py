"""PadChest (Bustos et al., 2020): zips of 16-bit PNGs and one CSV. A study has several views."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import is_nothing, parse_sex, parse_view_position
from cxrpipe.archives.layouts.base import (
    CONTRADICTION,
    KEPT_APART,
    Found,
    Group,
    Layout,
    Remark,
    Skipped,
    Unmatched,
    by_patient,
    group,
)
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.models.spelling import finding
from cxrpipe.records import Study

TABLE = "PADCHEST_*.csv*"
COLUMNS = ("ImageID", "StudyID", "PatientID", "Projection", "Labels")
MORE_COLUMNS = ("PatientBirth", "PatientSex_DICOM", "StudyDate_DICOM")
REMARKS = {"exclude", "suboptimal study", "unchanged"}
"""Labels that describe the report and not the chest. Where a row has no other label, nothing is known."""
NO_CHEST = {"COSTAL", "EXCLUDE"}
"""Projections that are left out: ribs, and images that the authors excluded."""


class _Image(NamedTuple):
    """A row of the table."""

    study_id: str
    patient_id: str | None
    projection: str
    present: frozenset[str] | None
    """Findings that are present; None: nothing is known."""
    patient_age: float | None
    patient_sex: str | None


def recognise(names: Names) -> str | None:
    table = names.find(TABLE)
    return f"found {table}" if table else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    images, contradictions = _read_table(catalogue)
    findings = sorted(set().union(*(image.present for image in images.values() if image.present)))
    findings_of = _findings_of_studies(images.values(), contradictions)

    def place(file: File) -> tuple[str, str] | None:
        name = file.name.rpartition("/")[2]
        return (images[name].study_id, name) if name in images else None

    left = {image.study_id: None for image in images.values()}
    for item in group(catalogue.images(), place, "no row in the table of PadChest"):
        if not isinstance(item, Group):
            yield item
            continue
        left.pop(item.study_id)
        views = []
        for name, file in item.files.items():
            projection = images[name].projection
            if projection in NO_CHEST:
                yield Skipped(file.url, file.entry, f"projection {projection}: not a chest radiograph")
            else:
                views.append((view_of(file, parse_view_position(projection)), images[name]))
        apart = by_patient(item.study_id, views, lambda view: view[1].patient_id) if views else {}
        for study_id, of_patient in apart.items():
            facts = next((image for _, image in of_patient if image.patient_id), of_patient[0][1])
            of_study = findings_of.get((item.study_id, facts.patient_id)) or findings_of.get((item.study_id, None))
            yield Study(
                study_id=study_id,
                patient_id=facts.patient_id,
                views=tuple(view for view, _ in of_patient),
                labels=of_study.labels(findings) if of_study else dict.fromkeys(findings),
                patient_age=facts.patient_age,
                patient_sex=facts.patient_sex,
            )
            if len(apart) > 1:
                yield Remark(KEPT_APART, study_id)
    yield from (Remark(CONTRADICTION, study_id) for study_id in contradictions)
    yield from map(Unmatched, left)


class _Findings(NamedTuple):
    """Findings of a study: those that all of its rows name, and those that at least one row names."""

    by_all: frozenset[str]
    by_any: frozenset[str]

    def labels(self, findings: Iterable[str]) -> dict[str, float | None]:
        unsure = self.by_any - self.by_all
        return {name: None if name in unsure else float(name in self.by_all) for name in findings}


def _findings_of_studies(
    images: Iterable[_Image], contradictions: dict[str, None]
) -> dict[tuple[str, str | None], _Findings]:
    """Collect (study, patient) → the findings that their rows name. Rows without labels do not count."""
    findings_of: dict[tuple[str, str | None], _Findings] = {}
    for image in images:
        if image.present is not None:
            key = image.study_id, image.patient_id
            before = findings_of.setdefault(key, _Findings(image.present, image.present))
            if image.present != before.by_all or image.present != before.by_any:
                findings_of[key] = _Findings(before.by_all & image.present, before.by_any | image.present)
                contradictions[image.study_id] = None
    return findings_of


def _read_table(catalogue: Catalogue) -> tuple[dict[str, _Image], dict[str, None]]:
    """Read image name → its row, and the studies of images whose rows contradict each other.

    The findings of these images are unknown. The table also holds the reports; they are not kept.
    """
    table = catalogue.table(TABLE, "padchest", "studies and labels")
    images: dict[str, _Image] = {}
    contradictions: dict[str, None] = {}
    for row in catalogue.rows(table, COLUMNS, MORE_COLUMNS):
        image = _Image(
            study_id=row["StudyID"],
            patient_id=row["PatientID"] or None,
            projection=row["Projection"].upper(),
            present=_present(row["Labels"], f"{row.where}: {row['ImageID']}"),
            patient_age=_age(row),
            patient_sex=parse_sex(row.get("PatientSex_DICOM") or ""),
        )
        if not row["ImageID"] or not image.study_id:
            raise ConfigError(f"{row.where} has no ImageID or no StudyID")
        name = re.split(r"[/\\]", row["ImageID"])[-1]
        if images.setdefault(name, image) != image:
            before = images[name]
            same = before.projection == image.projection
            images[name] = before._replace(present=None, projection=before.projection if same else "")
            contradictions[image.study_id] = None
    return images, contradictions


def _present(text: str, where: str) -> frozenset[str] | None:
    """Parse `[' pneumonia', 'unchanged']` into {Pneumonia}. Labels count as a whole, never a part of one."""
    if text.strip() in ("", "nan"):
        return None
    try:
        listed = ast.literal_eval(text)
        labels = {label.strip() for label in listed} - {""}
    except (ValueError, SyntaxError, TypeError, AttributeError):
        raise ConfigError(f"{where}: Labels {text!r}; expected a list such as ['pneumonia', 'unchanged']") from None
    findings = labels - REMARKS
    if not findings or "exclude" in labels:
        return None
    return frozenset(_spelled(label) for label in findings if not is_nothing(label))


def _spelled(label: str) -> str:
    """Spell a finding as other archives do: `pleural effusion` → `Pleural_Effusion`, `NSG tube` → `NSG_Tube`."""
    return finding(" ".join(word[:1].upper() + word[1:] for word in label.split()))


def _age(row: Mapping[str, str]) -> float | None:
    """Years from the year of birth to the year of the study. The table has no closer dates."""
    born = re.match(r"\d{4}", row.get("PatientBirth") or "")
    taken = re.match(r"\d{4}", row.get("StudyDate_DICOM") or "")
    return float(int(taken[0]) - int(born[0])) if born and taken else None


LAYOUT = Layout(name="padchest", recognise=recognise, studies=studies)
