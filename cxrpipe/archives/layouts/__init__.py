"""Layouts of published archives, one small file each: an archive → its studies."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.labels import OLDEST, is_an_age
from cxrpipe.archives.layouts import (
    chexpert,
    dicom,
    folders,
    images,
    medmnist,
    mimic_cxr_jpg,
    montgomery,
    nih,
    padchest,
    shenzhen,
    table,
)
from cxrpipe.archives.layouts.base import Found, Layout, Remark, Skipped, Table, Unmatched
from cxrpipe.archives.listing import IN_A_STUDY, LEFT_OUT
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study, View
from cxrpipe.records.splits import assign
from cxrpipe.storage import spill

__all__ = ["LAYOUTS", "choose", "studies"]

LAYOUTS: dict[str, Layout] = {
    layout.NAME: layout
    for layout in (
        table,
        nih,
        padchest,
        mimic_cxr_jpg,
        chexpert,
        medmnist,
        shenzhen,
        montgomery,
        dicom,
        folders,
        images,
    )
}
"""In the order in which `auto` tries them: the most particular first."""


def choose(catalogue: Catalogue, name: str) -> tuple[Layout, str]:
    """The layout called `name`, or for `auto` the first that recognises the archive; and why."""
    if name != "auto":
        if name not in LAYOUTS:
            raise ConfigError(f"layout {name!r} is unknown; expected auto or one of {', '.join(sorted(LAYOUTS))}")
        return LAYOUTS[name], "as asked"
    # Most archives show what they are by their objects; containers are opened only where those say nothing.
    for listed in (catalogue.object_names, catalogue.names):
        names = listed()
        if catalogue.lost and not names:
            raise ConfigError(f"{catalogue.archive}: nothing in it can be read; {catalogue.describe_lost()}")
        for layout in LAYOUTS.values():
            why = layout.recognise(names)
            if why and (layout is not dicom or dicom.recognise_contents(catalogue)):
                return layout, why
    if names and (why := dicom.recognise_contents(catalogue)):
        return dicom, why
    if not names:
        raise ConfigError(
            f"{catalogue.archive}: nothing in it can be read: it holds no files{catalogue.describe_aside()}"
        )
    seen = ", ".join(itertools.islice(names, 3)) + (", …" if len(names) > 3 else "")
    raise ConfigError(
        f"{catalogue.archive}: no known layout ({len(names)} files such as {seen}{catalogue.describe_aside()}); "
        f"name one with --layout: {', '.join(sorted(LAYOUTS))}{folders.hint(names)}"
    )


def studies(catalogue: Catalogue, layout: Layout, split_seed: int) -> Iterator[Found]:
    """What the layout finds, and then every file of the archive of which it has said nothing: a table that it has read,
    or skipped with a reason. So each file is a view, a mask, a table or skipped."""
    for found in _studies(catalogue, layout, split_seed):
        if isinstance(found, Study):
            catalogue.use(map(_place, (*found.views, *found.mask_views)), IN_A_STUDY)
        elif isinstance(found, Skipped):
            catalogue.use([(found.url, found.entry)], LEFT_OUT)
        yield found
    yield from (Skipped(*lost) for lost in catalogue.lost)
    for file, why, detail in catalogue.left():
        yield Skipped(file.url, file.entry, why, detail) if why else Table(file.url, file.entry)


def _place(view: View) -> tuple[str, str | None]:
    """The file that holds a view: that of an array is the npz."""
    return view.url, None if view.compression == "npy" else view.entry


def _studies(catalogue: Catalogue, layout: Layout, split_seed: int) -> Iterator[Found]:
    """What the layout finds, every study with its split filled in and every second file of one study skipped."""
    hide = catalogue.pseudonyms
    with contextlib.closing(spill.Seen()) as seen:
        for found in _unique(layout.studies(catalogue), catalogue, layout, seen):
            if isinstance(found, Unmatched) and hide:
                yield Unmatched(hide.of(found.study_id))
            elif isinstance(found, Remark) and hide:
                yield Remark(found.kind)
            elif not isinstance(found, Study):
                yield found
            else:
                if found.patient_age is not None and not is_an_age(found.patient_age):
                    yield Remark(
                        f"ages below 0 or above {OLDEST:.0f} years: taken as unknown", None if hide else found.study_id
                    )
                    found = replace(found, patient_age=None)
                key = found.patient_id or found.study_id
                study = replace(found, split=assign(found.split, key, split_seed))
                if hide:  # dicom has done so itself, before its facts are kept
                    study = hide.with_digest(study if layout is dicom else hide.ids(study))
                yield study
        if catalogue.lost and not len(seen):
            raise ConfigError(f"{catalogue.archive}: no study can be read; {catalogue.describe_lost()}")


def _unique(every: Iterable[Found], catalogue: Catalogue, layout: Layout, seen: spill.Seen) -> Iterator[Found]:
    """What is found, with every study id once. The others are skipped, unless they are of another file: where a study
    is named by its path, `a.png` beside `a.jpg` is not `a` but `a.png`."""
    for found in every:
        if not isinstance(found, Study) or seen.add(found.study_id):
            yield found
            continue
        suffix = (found.views[0].entry or found.views[0].url).rpartition(".")[2]
        name = f"{found.study_id}.{suffix}"
        if layout in (images, folders) and catalogue.is_only(name) and seen.add(name):
            yield replace(found, study_id=name)
        else:
            yield from (Skipped(view.url, view.entry, "duplicate_instance") for view in found.views)
