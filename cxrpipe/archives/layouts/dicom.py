"""DICOM in any tree, with or without suffixes: the header of a file says what it is, and its name says nothing.

One SOP instance is one view. A study is what shares a Study Instance UID and does not contradict itself about the
patient, wherever its files lie. Computed and digital radiographs of all body parts are catalogued; scoring rejects
those whose header names another part than the chest. An exposure FOR PROCESSING is skipped where the study has the
finished film too.
"""

import contextlib
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import is_an_age
from cxrpipe.archives.layouts.base import Found, Layout, Remark, Skipped, by_patient
from cxrpipe.archives.layouts.dicom_facts import HEAD_BYTES, Facts, is_named_as_dicom, look, may_be_dicom
from cxrpipe.archives.listing import Names, fields, file_of
from cxrpipe.images.dicom import begins_as_dicom
from cxrpipe.records import FRONTAL, Study, View
from cxrpipe.storage import spill

_LOOKED_INTO = 8
"""Files that are looked into before the layout is chosen."""
_APART = "studies share a Study Instance UID with another patient's: kept apart as <StudyInstanceUID>/<PatientID>"
_RAW = "views are exposures FOR PROCESSING (0008,0068): kept, for their studies have no finished film of that view"
_Item = tuple[File, Facts]


def recognise(names: Names) -> str | None:
    named, total = sum(map(is_named_as_dicom, names)), len(names)
    return f"{named} of {total} files are named as DICOM" if named and 2 * named >= total else None


def recognise_contents(catalogue: Catalogue) -> str | None:
    """Look into some of the files that are named as DICOM, or else of those that may be DICOM: a name is no proof."""
    named = sum(map(is_named_as_dicom, catalogue.names()))
    is_candidate = is_named_as_dicom if named else may_be_dicom
    count = named or sum(map(may_be_dicom, catalogue.names()))
    step = max(1, count // _LOOKED_INTO)
    candidates = (file for file in catalogue.files() if is_candidate(file.name))
    some = list(itertools.islice(candidates, 0, step * _LOOKED_INTO, step))
    heads = [head for _, head in catalogue.heads(some, 256)]
    dicom = sum(isinstance(head, bytes) and begins_as_dicom(head) for head in heads)
    return f"{dicom} of {len(heads)} files that were looked into begin as DICOM" if dicom else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    """Read all headers in the order of names. Of several files of one SOP instance the first stays."""
    with contextlib.closing(spill.Groups()) as groups:
        for file, learned in catalogue.learned(functools.partial(look, catalogue), HEAD_BYTES):
            facts = json.loads(learned)
            if isinstance(facts, str):
                yield Skipped(file.url, file.entry, facts)
            else:
                groups.add(facts[0], (fields(file), facts))
        for _, group in groups:
            items = [(file_of(row), Facts.from_json(facts)) for row, facts in group]
            for depth, of_person in _by_person(items):
                yield from _study(of_person, depth)


def _by_person(items: list[_Item]) -> Iterator[tuple[int, list[_Item]]]:
    """Divide the files that share a Study Instance UID by person; yields which of `Facts.study_ids` holds, and files.

    An anonymiser may give all its files one UID, and all its patients one id. Files of several Patient IDs are separate
    studies. So are files of one Patient ID that contradict each other: another sex, another birth date, or ages more
    than a year apart.
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


def _is_one_person(headers: Sequence[Facts]) -> bool:
    sexes = {facts.patient_sex for facts in headers} & {"M", "F"}
    births = {facts.patient_born for facts in headers} - {None}
    ages = [facts.patient_age for facts in headers if facts.patient_age is not None and is_an_age(facts.patient_age)]
    return len(sexes) < 2 and len(births) < 2 and (not ages or max(ages) - min(ages) <= 1)


def _study(items: list[_Item], depth: int) -> Iterator[Found]:
    """Make one study, without copies of its files and without raw exposures of which it has the finished film.

    A frontal and a lateral film are no copies of each other, even under one SOP Instance UID.
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


def _view(file: File, facts: Facts) -> View:
    return replace(
        view_of(file, facts.view_position),
        sop_instance_uid=facts.sop_instance_uid,
        pixel_spacing_mm=facts.pixel_spacing_mm,
    )


LAYOUT = Layout(
    name="dicom",
    recognise=recognise,
    studies=studies,
    recognise_contents=recognise_contents,
    hides_ids=True,
)
