"""The lung masks that an archive comes with: what people outlined."""

import numpy as np

from cxrpipe.archives.reader import Reader
from cxrpipe.errors import StudyError
from cxrpipe.images import radiographs
from cxrpipe.images.masks import scaled_to
from cxrpipe.records import Study


def truth_mask(study: Study, number: int, reader: Reader, size_px: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the union of the masks of view `number` on the grid of its image.

    size_px  (rows, columns) of the image, which a mask of the same shape is scaled to

    StudyError where a mask cannot be read or has another shape.
    """
    united: np.ndarray | None = None
    for mask in study.mask_views:
        if mask.view == number:
            own = scaled_to(radiographs.decode_mask(reader.read(mask), mask.name), size_px, mask.name)
            united = own if united is None else united | own
    if united is None:
        raise StudyError("missing", f"{study.study_id}: no mask of view {number}")
    return united
