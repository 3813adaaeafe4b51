"""DICOM in any tree, with or without extensions: what a file is stands in its header, and nothing in its name.

One SOP instance is one view; a study is what shares a Study Instance UID, wherever its files lie. Computed and digital
radiographs are catalogued whatever their body part: scoring rejects those that say another one than chest.

Not handled: the view from View Code Sequence (0054,0220) where View Position is empty.
"""

import contextlib
import functools
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import parse_age
from cxrpipe.archives.layouts.base import Found, Skipped
from cxrpipe.archives.listing import Names, fields, file_of
from cxrpipe.errors import StudyError
from cxrpipe.images.dicom import RADIOGRAPHS, Header, begins_as_dicom, read_header
from cxrpipe.records import Study, View
from cxrpipe.records.pseudonyms import Pseudonyms
from cxrpipe.storage import spill

NAME = "dicom"
SUFFIXES = (".dcm", ".dicom")
_PARTIAL = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp")
_HEAD_BYTES = 16 << 10
_LOOKED_INTO = 8
_LATERAL = ("LATERAL", "LAT", "L")


def recognise(names: Names) -> str | None:
    named, every = sum(map(_is_named, names)), len(names)
    return f"{named} of {every} files are named as DICOM" if named and 2 * named >= every else None


def recognise_contents(catalogue: Catalogue) -> str | None:
    """Some of the files that are named as DICOM, or of all where none is, looked into: a name proves nothing."""
    names = catalogue.names()
    named = sum(map(_is_named, names))
    step = max(1, (named or len(names)) // _LOOKED_INTO)
    files = (file for file in catalogue.files() if not named or _is_named(file.name))
    some = list(itertools.islice(files, 0, step * _LOOKED_INTO, step))
    heads = [head for _, head in catalogue.heads(some, 256)]
    dicom = sum(isinstance(head, bytes) and begins_as_dicom(head) for head in heads)
    return f"{dicom} of {len(heads)} files that were looked into begin as DICOM" if 2 * dicom >= len(heads) else None


class _Facts(NamedTuple):
    """What a header says, as far as the study table has it. Kept for the next index."""

    study_instance_uid: str
    sop_instance_uid: str | None
    patient_id: str | None
    view_position: str | None
    patient_age: float | None
    patient_sex: str | None
    pixel_spacing_mm: tuple[float, float] | None
    split: str | None = None
    """Where pseudonyms hide what it is decided by."""

    def hidden(self, hide: Pseudonyms) -> "_Facts":
        return self._replace(
            study_instance_uid=hide.of(self.study_instance_uid),
            sop_instance_uid=hide.maybe(self.sop_instance_uid),
            patient_id=hide.maybe(self.patient_id),
            split=hide.split(self.patient_id or self.study_instance_uid),
        )


def _is_named(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def studies(catalogue: Catalogue) -> Iterator[Found]:
    """Files in the order of their names: of one SOP instance the first file stays."""
    with contextlib.closing(spill.Seen()) as instances, contextlib.closing(spill.Groups()) as groups:
        for file, learned in catalogue.learned(functools.partial(_look, catalogue), _HEAD_BYTES):
            said = json.loads(learned)
            if isinstance(said, str):
                yield Skipped(file.url, file.entry, said)
                continue
            facts = _facts(said)
            if facts.sop_instance_uid and not instances.add(facts.sop_instance_uid):
                yield Skipped(file.url, file.entry, "duplicate_instance")
            else:
                groups.add(facts.study_instance_uid, (fields(file), tuple(facts)))
        for study_id, views in groups:
            first = _Facts(*views[0][1])
            yield Study(
                study_id=study_id,
                patient_id=first.patient_id,
                views=tuple(_view(file_of(of_file), _Facts(*facts)) for of_file, facts in views),
                patient_age=first.patient_age,
                patient_sex=first.patient_sex,
                split=first.split,
            )


def _look(catalogue: Catalogue, file: File, head: bytes) -> str:
    """The facts of a file, or the reason why it is no radiograph, as JSON."""
    header = "unfinished download" if file.suffix in _PARTIAL else _header(catalogue, file, head)
    if isinstance(header, str):
        return json.dumps(header)
    facts = _Facts(
        study_instance_uid=header.study_instance_uid or "",
        sop_instance_uid=header.sop_instance_uid,
        patient_id=_patient(header),
        view_position=view_position(header.view_position),
        patient_age=parse_age(header.patient_age or ""),
        patient_sex=header.patient_sex if header.patient_sex in ("M", "F", "O") else None,
        pixel_spacing_mm=header.pixel_spacing_mm,
    )
    return json.dumps(facts.hidden(catalogue.pseudonyms) if catalogue.pseudonyms else facts)


def _header(catalogue: Catalogue, file: File, head: bytes) -> Header | str:
    name = view_of(file).name
    if not head:
        return "empty"
    if not begins_as_dicom(head):
        return "not DICOM"
    header, settled = _read(head, name)
    if header is None or not settled:
        header, _ = read_header(catalogue.read(file), name)
    if header.modality and header.modality not in RADIOGRAPHS:
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
    facts = _Facts(*said)
    if facts.pixel_spacing_mm is None:
        return facts
    rows, columns = facts.pixel_spacing_mm  # a list, to JSON
    return facts._replace(pixel_spacing_mm=(rows, columns))


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


def view_position(text: str | None) -> str | None:
    """View Position (0018,5101) in the words of the study table; what it does not name is null."""
    words = re.findall(r"[A-Z]+", text or "")
    for word in words:
        if word in ("PA", "AP", "LL", "RL"):
            return word
    return "LATERAL" if any(word in _LATERAL for word in words) else None
