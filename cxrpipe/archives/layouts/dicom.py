"""DICOM in any tree, with or without extensions: what a file is stands in its header, and nothing in its name.

One SOP instance is one view; a study is what shares a Study Instance UID and does not contradict itself about the
patient, wherever its files lie. Computed and digital radiographs are catalogued whatever their body part: scoring
rejects those that say another one than chest. An exposure FOR PROCESSING is skipped where the study has the finished
film too.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import is_an_age, names_a_view, parse_age, parse_view_position
from cxrpipe.archives.layouts.base import Found, Remark, Skipped, by_patient
from cxrpipe.archives.listing import Names, fields, file_of
from cxrpipe.errors import StudyError
from cxrpipe.images.dicom import FOR_PROCESSING, MEDIA_DIRECTORY, Header, begins_as_dicom, is_radiograph, read_header
from cxrpipe.records import FRONTAL, Study, View
from cxrpipe.records.pseudonyms import Pseudonyms
from cxrpipe.storage import spill

NAME = "dicom"
SUFFIXES = (".dcm", ".dicom")
_PARTIAL = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp")
_HEAD_BYTES = 16 << 10
_LOOKED_INTO = 8
# Suffixes of files that lie beside DICOM files and are none; a name without a suffix, or with `.1.2.840`, may be one.
_OTHERS = re.compile(
    r"\.(xml|json|txt|csv|tsv|html?|pdf|md|log|ini|inf|exe|dll|jar|js|css|ico|png|jpe?g|gif|bmp|tiff?|webp|zip|gz|parquet)",
    re.IGNORECASE,
)
_APART = "studies share a Study Instance UID with another patient's: kept apart as <StudyInstanceUID>/<PatientID>"
_RAW = "views are exposures FOR PROCESSING (0008,0068): kept, for their studies have no finished film of that view"


def recognise(names: Names) -> str | None:
    named, every = sum(map(_is_named, names)), len(names)
    return f"{named} of {every} files are named as DICOM" if named and 2 * named >= every else None


def recognise_contents(catalogue: Catalogue) -> str | None:
    """Some of the files that are named as DICOM, or of those that may be, looked into: a name is no proof."""
    named = sum(map(_is_named, catalogue.names()))
    may_be = _is_named if named else _may_be
    count = named or sum(map(_may_be, catalogue.names()))
    step = max(1, count // _LOOKED_INTO)
    files = (file for file in catalogue.files() if may_be(file.name))
    some = list(itertools.islice(files, 0, step * _LOOKED_INTO, step))
    heads = [head for _, head in catalogue.heads(some, 256)]
    dicom = sum(isinstance(head, bytes) and begins_as_dicom(head) for head in heads)
    return f"{dicom} of {len(heads)} files that were looked into begin as DICOM" if dicom else None


class _Facts(NamedTuple):
    """What a header says, as far as the study table has it. Kept for the next index."""

    study_instance_uid: str
    sop_instance_uid: str | None
    patient_id: str | None
    view_position: str | None
    patient_age: float | None
    patient_sex: str | None
    pixel_spacing_mm: tuple[float, float] | None
    patient_born: str | None
    """A hash of the birth date: what is kept tells whether two are the same, and no more."""
    is_raw: bool
    """An exposure FOR PROCESSING."""
    study_ids: tuple[str, str, str]
    """The id of its study: as a rule, beside those of other patients, and beside those of other people with its id."""
    splits: tuple[str | None, ...] = (None, None, None)
    """Of each of these, where pseudonyms hide what a split is decided by."""

    def hidden(self, hide: Pseudonyms) -> "_Facts":
        first, second, third = self.study_ids
        return self._replace(
            study_instance_uid=hide.of(self.study_instance_uid),
            sop_instance_uid=hide.maybe(self.sop_instance_uid),
            patient_id=hide.maybe(self.patient_id),
            patient_born=hide.maybe(self.patient_born),
            study_ids=(hide.of(first), hide.of(second), hide.of(third)),
            splits=tuple(hide.split(self.patient_id or study_id) for study_id in self.study_ids),
        )


_Item = tuple[File, _Facts]


def _may_be(name: str) -> bool:
    return not _OTHERS.fullmatch(PurePosixPath(name).suffix)


def _is_named(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def studies(catalogue: Catalogue) -> Iterator[Found]:
    """Files in the order of their names: of one SOP instance of a study the first file stays."""
    with contextlib.closing(spill.Groups()) as groups:
        for file, learned in catalogue.learned(functools.partial(_look, catalogue), _HEAD_BYTES):
            said = json.loads(learned)
            if isinstance(said, str):
                yield Skipped(file.url, file.entry, said)
            else:
                groups.add(said[0], (fields(file), said))
        for _, group in groups:
            items = [(file_of(of_file), _facts(said)) for of_file, said in group]
            for depth, of_person in _by_person(items):
                yield from _study(of_person, depth)


def _by_person(items: list[_Item]) -> Iterator[tuple[int, list[_Item]]]:
    """The files that share a Study Instance UID by the person whom they show, and which of the study ids they get.

    An anonymiser may give all its files one UID, and all its patients one id. Files of several Patient IDs are studies
    of their own, and so are those of one Patient ID that contradict each other: another sex, another birth date, or
    ages more than a year apart.
    """
    patients = by_patient("", items, lambda item: item[1].patient_id).values()
    for of_patient in patients:
        if _is_one_person([facts for _, facts in of_patient]):
            yield (0 if len(patients) == 1 else 1), of_patient
        else:
            people: dict[str, list[_Item]] = {}
            for item in of_patient:
                people.setdefault(item[1].study_ids[2], []).append(item)
            yield from ((2, of_person) for of_person in people.values())


def _is_one_person(every: Sequence[_Facts]) -> bool:
    sexes = {facts.patient_sex for facts in every} & {"M", "F"}
    births = {facts.patient_born for facts in every} - {None}
    ages = [facts.patient_age for facts in every if facts.patient_age is not None and is_an_age(facts.patient_age)]
    return len(sexes) < 2 and len(births) < 2 and (not ages or max(ages) - min(ages) <= 1)


def _study(items: list[_Item], depth: int) -> Iterator[Found]:
    """One study, without copies of its files and without raw exposures of which it has the finished film.

    A frontal and a lateral film are no copies of each other, whatever their SOP Instance UID.
    """
    instances: set[tuple[str | None, bool]] = set()
    finished = {facts.view_position for _, facts in items if not facts.is_raw}
    views: list[_Item] = []
    raw = 0
    for file, facts in items:
        instance = facts.sop_instance_uid, facts.view_position in FRONTAL
        if facts.sop_instance_uid and instance in instances:
            yield Skipped(file.url, file.entry, "duplicate_instance")
        elif facts.is_raw and finished and (not facts.view_position or {facts.view_position, None} & finished):
            yield Skipped(file.url, file.entry, "for_processing")
        else:
            views.append((file, facts))
            instances.add(instance)
            raw += facts.is_raw
    first = next((facts for _, facts in views if facts.patient_id), views[0][1])
    yield Study(
        study_id=first.study_ids[depth],
        patient_id=first.patient_id,
        views=tuple(_view(file, facts) for file, facts in views),
        patient_age=next((facts.patient_age for _, facts in views if facts.patient_age is not None), None),
        patient_sex=next((facts.patient_sex for _, facts in views if facts.patient_sex), None),
        split=first.splits[depth],
    )
    if depth:
        yield Remark(_APART, first.study_ids[depth])
    yield from [Remark(_RAW, first.study_ids[depth])] * raw


def _look(catalogue: Catalogue, file: File, head: bytes) -> str:
    """The facts of a file, or the reason why it is no radiograph, as JSON."""
    header = "unfinished download" if file.suffix in _PARTIAL else _header(catalogue, file, head)
    if isinstance(header, str):
        return json.dumps(header)
    age, born = parse_age(header.patient_age or ""), header.patient_birth_date
    sex = header.patient_sex if header.patient_sex in ("M", "F", "O") else None
    uid, patient = header.study_instance_uid or "", _patient(header)
    apart = f"{uid}/{patient or '-'}"
    facts = _Facts(
        study_instance_uid=uid,
        sop_instance_uid=header.sop_instance_uid,
        patient_id=patient,
        view_position=view_position(header),
        patient_age=age,
        patient_sex=sex,
        pixel_spacing_mm=header.pixel_spacing_mm,
        patient_born=_hash(born) if born else None,
        is_raw=_is_raw(header),
        study_ids=(uid, apart, f"{apart}/{_hash(f'{sex} {born} {age and int(age)}')}"),
    )
    return json.dumps(facts.hidden(catalogue.pseudonyms) if catalogue.pseudonyms else facts)


def _is_raw(header: Header) -> bool:
    if header.presentation_intent in ("FOR PROCESSING", "FOR PRESENTATION"):
        return header.presentation_intent == "FOR PROCESSING"
    return header.sop_class == FOR_PROCESSING


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _header(catalogue: Catalogue, file: File, head: bytes) -> Header | str:
    name = view_of(file).name
    if not head:
        return "empty"
    if not begins_as_dicom(head):
        return "not DICOM"
    header, settled = _read(head, name)
    if header is None or not settled:
        header, _ = read_header(catalogue.read(file), name)
    if header.sop_class == MEDIA_DIRECTORY:
        return "DICOMDIR: a list of files, no image"
    if not is_radiograph(header):
        return "not_chest"
    if header.rows_px is None:
        return "no_pixel_data"
    return header if header.study_instance_uid else "no Study Instance UID (0020,000D)"


def _read(head: bytes, name: str) -> tuple[Header | None, bool]:
    """What the first bytes say. A header that they cut can look like anything."""
    try:
        return read_header(head, name)
    except StudyError:
        return None, False


def _facts(said: list[Any]) -> _Facts:
    """From JSON, which makes lists of tuples."""
    values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in said]
    return _Facts(*values)


def _view(file: File, facts: _Facts) -> View:
    return replace(
        view_of(file, facts.view_position),
        sop_instance_uid=facts.sop_instance_uid,
        pixel_spacing_mm=facts.pixel_spacing_mm,
    )


def _patient(header: Header) -> str | None:
    """As HL7 writes it, `4711^^^HOSPITAL`: a number is unique only where it was given."""
    if header.patient_id and header.issuer_of_patient_id:
        return f"{header.patient_id}^^^{header.issuer_of_patient_id}"
    return header.patient_id


def view_position(header: Header) -> str | None:
    """By View Position, else the view's code, else how the patient lies in the image, else Series Description."""
    texts = (
        header.view_position,
        header.view_code,
        _as_oriented(header.patient_orientation),
        header.series_description,
    )
    return next((parse_view_position(text) for text in texts if text and names_a_view(text)), None)


def _as_oriented(orientation: Sequence[str]) -> str | None:
    """Patient Orientation (0020,0020): rows of a frontal film point to the left or right, of a lateral one to the front
    or back; columns, or rows of a film that lies on its side, to head or feet."""
    sides = {side[0] for side in orientation if side} - {"H", "F"}
    if len(orientation) != 2 or len(sides) != 1:
        return None
    return {"L": "FRONTAL", "R": "FRONTAL", "A": "LATERAL", "P": "LATERAL"}.get(sides.pop())
