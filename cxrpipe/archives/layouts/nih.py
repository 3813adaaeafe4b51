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
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
COLUMNS = ("Image Index", "Finding Labels")
MORE_COLUMNS = ("View Position", "Patient Age", "Patient Gender")
LISTS = {"train_val_list.txt": "train_valid", "test_list.txt": "test"}
_IMAGE = re.compile(r"((\d{8})_\d{3})\.\w+")
"""Names of images; their suffix is another one where somebody has converted them."""


class _Row(NamedTuple):
    """Of the table, what is used: 112,120 rows as read take 130 MB."""

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
        """Null for what the rows contradict each other on; labels are united apart."""
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
    table = catalogue.find(TABLE)
    if table is None:
        raise ConfigError(f"{catalogue.archive}: no {TABLE}; the nih layout needs it for labels and patients")
    rows, contradictions = _read_table(catalogue, table)
    official, in_both = _official_splits(catalogue)
    found = set()
    for file in catalogue.images():
        image = _IMAGE.fullmatch(file.name.rpartition("/")[2])
        if image is None:
            yield Skipped(file.url, file.entry, "not named as an NIH image")
            continue
        name, patient = image[1], image[2]
        found.add(name)
        row = rows.get(name, _Row())
        yield Study(
            study_id=name,
            patient_id=patient,  # "Patient ID" of the CSV, which drops the zeros
            views=(view_of(file, row.view_position),),
            split=official.get(name) or official.get(patient),
            labels=_labels(row.labels) if name not in contradictions else contradictions[name],
            patient_age=row.patient_age,
            patient_sex=row.patient_sex,
        )
    yield from (Remark(CONTRADICTION, name) for name in contradictions)
    yield from (Remark("patients stand in both lists: taken as test", patient) for patient in in_both)
    yield from (Unmatched(name) for name in rows if name not in found)


def _read_table(catalogue: Catalogue, table: File) -> tuple[dict[str, _Row], dict[str, dict[str, float | None]]]:
    """Image → its row; and the labels of images whose rows contradict each other, which have nothing else in common."""
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
    """`Cardiomegaly|Effusion` → 1 for the two, 0 for the others; nothing is known without a row or in an empty cell."""
    if not text:
        return dict.fromkeys(FINDINGS)
    present = {_FINDINGS.get(spelled(part), part.strip()) for part in text.split("|") if not is_nothing(part)}
    if unknown := present.difference(FINDINGS):
        raise ConfigError(f"Finding Labels {text!r}: {sorted(unknown)} are not findings of ChestX-ray14")
    return {name: float(name in present) for name in FINDINGS}


_FINDINGS = {spelled(name): name for name in FINDINGS}
"""By what their spellings have in common: `Pleural Thickening`, `EFFUSION`."""


def _official_splits(catalogue: Catalogue) -> tuple[dict[str, str], list[str]]:
    """Image or patient → split, from the two published lists, and the patients in both; their images are all in test.

    The validation part is left to the hash. A patient's number stands for those images of theirs that no list names.
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
