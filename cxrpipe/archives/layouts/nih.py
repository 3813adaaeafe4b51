"""NIH ChestX-ray14 (Wang et al., CVPR 2017): tar.gz files of PNGs and one CSV. One image is one study."""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.csv_files import spelled
from cxrpipe.archives.labels import agreed, is_nothing, parse_age, parse_sex, parse_view_position
from cxrpipe.archives.layouts.base import CONTRADICTION, Found, Layout, Remark, Skipped, Unmatched
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study

TABLE = "Data_Entry_2017*.csv"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Effusion",  # in the table: Effusion
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
COLUMNS = ("Image Index", "Finding Labels")
MORE_COLUMNS = ("View Position", "Patient Age", "Patient Gender")
LISTS = {"train_val_list.txt": "train_valid", "test_list.txt": "test"}
_IMAGE = re.compile(r"((\d{8})_\d{3})\.\w+")
"""Matches names of images. Their suffix differs where somebody has converted them."""


class _Row(NamedTuple):
    """The cells of a row that are used. All cells of the 112,120 rows would take 130 MB."""

    labels: str | None = None
    view_position: str | None = None
    patient_age: float | None = None
    patient_sex: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, str]) -> "_Row":
        return cls(
            labels=sys.intern(row["Finding Labels"]),
            view_position=parse_view_position(row.get("View Position") or ""),
            patient_age=parse_age(row.get("Patient Age") or ""),
            patient_sex=parse_sex(row.get("Patient Gender") or ""),
        )

    def united(self, other: "_Row") -> "_Row":
        """Keep what both rows say, and None where they contradict each other. Labels are united by the caller."""
        return _Row(
            labels=self.labels,
            view_position=self.view_position if self.view_position == other.view_position else None,
            patient_age=self.patient_age if self.patient_age == other.patient_age else None,
            patient_sex=self.patient_sex if self.patient_sex == other.patient_sex else None,
        )


def recognise(names: Names) -> str | None:
    table = names.find(TABLE)
    return f"found {table}" if table else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    table = catalogue.table(TABLE, "nih", "labels and patients")
    rows, contradictions = _read_table(catalogue, table)
    official, in_both = _official_splits(catalogue)
    named: set[str] = set()
    for file in catalogue.images():
        image = _IMAGE.fullmatch(file.name.rpartition("/")[2])
        if image is None:
            yield Skipped(file.url, file.entry, "not named as an NIH image")
            continue
        name, patient = image[1], image[2]
        named.add(name)
        row = rows.get(name, _Row())
        yield Study(
            study_id=name,
            patient_id=patient,  # the CSV's "Patient ID" lacks the leading zeros
            views=(view_of(file, row.view_position),),
            split=official.get(name) or official.get(patient),
            labels=_labels(row.labels) if name not in contradictions else contradictions[name],
            patient_age=row.patient_age,
            patient_sex=row.patient_sex,
        )
    yield from (Remark(CONTRADICTION, name) for name in contradictions)
    yield from (Remark("patients stand in both lists: taken as test", patient) for patient in in_both)
    yield from (Unmatched(name) for name in rows if name not in named)


def _read_table(catalogue: Catalogue, table: File) -> tuple[dict[str, _Row], dict[str, dict[str, float | None]]]:
    """Read image → its row, and image → labels for images whose rows contradict each other."""
    rows: dict[str, _Row] = {}
    contradictions: dict[str, dict[str, float | None]] = {}
    for cells in catalogue.rows(table, COLUMNS, MORE_COLUMNS):
        image = _IMAGE.fullmatch(re.split(r"[/\\]", cells["Image Index"])[-1])
        if image is None:
            raise ConfigError(
                f"{cells.where}: Image Index {cells['Image Index']!r}; expected one like 00000013_005.png"
            )
        name, row = image[1], _Row.of(cells)
        before = rows.setdefault(name, row)
        if before != row:
            labels = contradictions.get(name) or _labels(before.labels)
            contradictions[name] = agreed(labels, _labels(row.labels))
            rows[name] = before.united(row)
    return rows, contradictions


def _labels(text: str | None) -> dict[str, float | None]:
    """Parse `Cardiomegaly|Effusion` into 1 for these two findings and 0 for the others; None for all without a text."""
    if not text:
        return dict.fromkeys(FINDINGS)
    present = {_FINDINGS.get(spelled(part), part.strip()) for part in text.split("|") if not is_nothing(part)}
    if unknown := present.difference(FINDINGS):
        raise ConfigError(f"Finding Labels {text!r}: {sorted(unknown)} are not findings of ChestX-ray14")
    return {name: float(name in present) for name in FINDINGS}


_FINDINGS = {spelled(name): name for name in FINDINGS} | {spelled("Effusion"): "Pleural_Effusion"}
"""What all spellings of a finding share, such as `Pleural Thickening` and `EFFUSION` → the finding."""


def _official_splits(catalogue: Catalogue) -> tuple[dict[str, str], list[str]]:
    """Read image or patient → split from the two published lists, and the patients in both lists, who are all in test.

    A hash cuts the validation part out of `train_valid`. The split of a patient holds for images that no list names.
    """
    splits: dict[str, str] = {}
    patients: dict[str, set[str]] = {}
    for listed, split in LISTS.items():
        file = catalogue.find(listed)
        for name in catalogue.list_of_names(file) if file else ():
            image = _IMAGE.fullmatch(name if "." in name else f"{name}.png")
            if image is None:
                raise ConfigError(f"{file.url if file else listed}: {name!r}; expected names like 00000013_005.png")
            splits[image[1]] = splits[image[2]] = split
            patients.setdefault(image[2], set()).add(split)
    in_both = [patient for patient, parts in patients.items() if len(parts) > 1]
    return splits | {name: "test" for name in splits if name[:8] in set(in_both)}, in_both


LAYOUT = Layout(name="nih", recognise=recognise, studies=studies)
