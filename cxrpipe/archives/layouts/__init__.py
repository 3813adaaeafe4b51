"""Layouts of published archives, one small file each. A layout turns the files of an archive into studies."""

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
    module.LAYOUT.name: module.LAYOUT
    for module in (
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
"""Name → layout, in the order in which `auto` tries them: the most particular first."""


def choose(catalogue: Catalogue, name: str) -> tuple[Layout, str]:
    """Return the layout called `name`, or for `auto` the first that recognises the archive, and the reason."""
    if name != "auto":
        if name not in LAYOUTS:
            raise ConfigError(f"layout {name!r} is unknown; expected auto or one of {', '.join(sorted(LAYOUTS))}")
        return LAYOUTS[name], "as asked"
    # The objects of most archives show the layout. Containers are opened only where the objects do not.
    for list_names in (catalogue.object_names, catalogue.names):
        names = list_names()
        if catalogue.lost and not names:
            raise ConfigError(f"{catalogue.archive}: nothing in it can be read; {catalogue.describe_lost()}")
        for layout in LAYOUTS.values():
            why = layout.recognise(names)
            if why and (layout.recognise_contents is None or layout.recognise_contents(catalogue)):
                return layout, why
    if not names:
        raise ConfigError(
            f"{catalogue.archive}: nothing in it can be read: it holds no files{catalogue.describe_aside()}"
        )
    for layout in LAYOUTS.values():
        if layout.recognise_contents and (why := layout.recognise_contents(catalogue)):
            return layout, why
    some = ", ".join(itertools.islice(names, 3)) + (", …" if len(names) > 3 else "")
    raise ConfigError(
        f"{catalogue.archive}: no known layout ({len(names)} files such as {some}{catalogue.describe_aside()}); "
        f"name one with --layout: {', '.join(sorted(LAYOUTS))}{folders.hint(names)}"
    )


def studies(catalogue: Catalogue, layout: Layout, split_seed: int) -> Iterator[Found]:
    """Read the studies of an archive, then account for all other files: each is a table that was read, or skipped with
    a reason. So every file of the archive is a view, a mask, a table or skipped."""
    for item in _studies(catalogue, layout, split_seed):
        if isinstance(item, Study):
            catalogue.use(map(_place, (*item.views, *item.mask_views)), IN_A_STUDY)
        elif isinstance(item, Skipped):
            catalogue.use([(item.url, item.entry)], LEFT_OUT)
        yield item
    yield from (Skipped(*lost) for lost in catalogue.lost)
    for file, why, detail in catalogue.left():
        yield Skipped(file.url, file.entry, why, detail) if why else Table(file.url, file.entry)


def _place(view: View) -> tuple[str, str | None]:
    """The url and entry of the file that holds a view. An array's file is its npz."""
    return view.url, None if view.compression == "npy" else view.entry


def _studies(catalogue: Catalogue, layout: Layout, split_seed: int) -> Iterator[Found]:
    """Read the studies, fill in their splits, and hide ids where the catalogue has pseudonyms."""
    pseudonyms = catalogue.pseudonyms
    with contextlib.closing(spill.Seen()) as seen:
        for item in _unique(layout.studies(catalogue), catalogue, layout, seen):
            if isinstance(item, Unmatched) and pseudonyms:
                yield Unmatched(pseudonyms.of(item.study_id))
            elif isinstance(item, Remark) and pseudonyms:
                yield Remark(item.kind)
            elif not isinstance(item, Study):
                yield item
            else:
                if item.patient_age is not None and not is_an_age(item.patient_age):
                    yield Remark(
                        f"ages below 0 or above {OLDEST:.0f} years: taken as unknown",
                        None if pseudonyms else item.study_id,
                    )
                    item = replace(item, patient_age=None)
                key = item.patient_id or item.study_id
                study = replace(item, split=assign(item.split, key, split_seed))
                if pseudonyms:
                    study = pseudonyms.with_digest(study if layout.hides_ids else pseudonyms.ids(study))
                yield study
        if catalogue.lost and not len(seen):
            raise ConfigError(f"{catalogue.archive}: no study can be read; {catalogue.describe_lost()}")


def _unique(items: Iterable[Found], catalogue: Catalogue, layout: Layout, seen: spill.Seen) -> Iterator[Found]:
    """Pass every study id once. The views of a second study with that id are skipped.

    Where the layout names studies by their path, `a.png` beside `a.jpg` is another study: `a.png`, not `a`.
    """
    for item in items:
        if not isinstance(item, Study) or seen.add(item.study_id):
            yield item
            continue
        suffix = (item.views[0].entry or item.views[0].url).rpartition(".")[2]
        name = f"{item.study_id}.{suffix}"
        if layout.named_by_path and catalogue.is_only(name) and seen.add(name):
            yield replace(item, study_id=name)
        else:
            yield from (Skipped(view.url, view.entry, "duplicate_instance") for view in item.views)
