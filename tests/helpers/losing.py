"""A prediction actor whose device fails for good on bright films. Workers of Ray import it."""

from typing import Any

import numpy as np

from cxrpipe.errors import DeviceLostError
from cxrpipe.on_ray.score import _Predictor
from cxrpipe.scoring.predictions import Predictions

BRIGHT = 200
"""Mean grey level of a film that the device does not survive."""


class LosingPredictor(_Predictor):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._predictor = _Losing(self._predictor)


class _Losing:
    def __init__(self, predictor: Any) -> None:
        self._real = predictor
        self.computed_on, self.views_at_once = predictor.computed_on, predictor.views_at_once

    def predict(self, pixels: dict[Any, np.ndarray]) -> Predictions:
        if any(square.mean() > BRIGHT for squares in pixels.values() for square in squares):
            raise DeviceLostError("cuda:0 fails: CUDA error: device-side assert triggered")
        return self._real.predict(pixels)
