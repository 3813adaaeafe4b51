"""Montgomery County (Jaeger et al., 2014): radiographs with a mask of each lung. One image is one study."""

import re
from collections.abc import Iterator

from cxrpipe.archives.catalogue import Catalogue, mask_of, view_of
from cxrpipe.archives.layouts.base import Found, Layout, Skipped, Unmatched
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.records import MaskView, Study

_IMAGE = re.compile(r"(?:^|.*/)CXR_png/([^/]+\.png)", re.IGNORECASE)
_MASK = re.compile(r"(?:^|.*/)ManualMask/(?:left|right)Mask/([^/]+\.png)", re.IGNORECASE)
_TUBERCULOSIS = re.compile(r"MCUCXR_\d+_([01])")


def recognise(names: Names) -> str | None:
    if any(_IMAGE.fullmatch(name) for name in names) and any(_MASK.fullmatch(name) for name in names):
        return "found CXR_png/ and ManualMask/"
    return None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    masks: dict[str, list[MaskView]] = {}
    for file in catalogue.images():
        if mask := _MASK.fullmatch(file.name):
            masks.setdefault(mask[1], []).append(mask_of(file))
    seen: set[str] = set()
    for file in catalogue.images():
        if image := _IMAGE.fullmatch(file.name):
            seen.add(image[1])
            yield Study(
                study_id=file.stem,
                patient_id=file.stem,
                views=(view_of(file),),
                mask_views=tuple(masks.get(image[1], ())),
                labels={"Tuberculosis": _label(file.stem)},
            )
        elif not _MASK.fullmatch(file.name):
            yield Skipped(file.url, file.entry, "neither in CXR_png/ nor in ManualMask/")
    if not seen:
        raise ConfigError(f"{catalogue.archive}: no CXR_png/*.png; expected the layout of the Montgomery County set")
    yield from (Unmatched(name.removesuffix(".png")) for name in masks if name not in seen)


def _label(stem: str) -> float | None:
    """Read the label from the last digit of `MCUCXR_0001_0`: 1 is tuberculosis. Other names have no label."""
    match = _TUBERCULOSIS.fullmatch(stem)
    return float(match[1]) if match else None


LAYOUT = Layout(name="montgomery", recognise=recognise, studies=studies)
