"""The ensemble that is measured: two classifiers and a U-Net; the second classifier may crop to the lungs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import explain, out_of_distribution
from cxrpipe.models.card import Crop, Embedding
from cxrpipe.models.ensemble import Ensemble
from gpu_parts import models, ours
from gpu_parts.scales import Scale

MARGIN = 0.05
_FITTED_FILMS = 16


def films(scale: Scale, seed: int) -> models.Films:
    """The films that are compared."""
    return models.draw(scale.films, scale.film_px, seed)


def make(folder: Path, scale: Scale, device: str, *, crops: bool, explains: bool, learns: bool = True) -> Ensemble:
    """Build the models of an ensemble and save them below `folder`.

    crops     the second member crops to the lungs
    explains  heat maps, and an embedding of the first member
    learns    the U-Net learns the drawn lungs; without it, only time counts
    """
    fitted = models.draw(_FITTED_FILMS, scale.film_px, seed=1)
    card = models.segmenter_card(scale.segmenter_px, scale.segmenter)
    network = models.segmenter(card, fitted, scale.learn_steps if learns else 0, device, seed=3)
    segmenter = ours.save(str(folder / "lungs"), card, network)
    crop = Crop(segmenter.card.weights_sha256, MARGIN) if crops else None
    members = []
    for number, name in enumerate(("whole", "second")):
        card = models.classifier_card(scale.classifier, scale.classifier_px)
        network = models.classifier(card, fitted, seed=number)
        if explains and number == 0:
            known = torch.no_grad()(explain.explained(network, card.side_px))(models.as_views(fitted, card)).embedding
            # Half of new films lie beyond this limit, so that rounding has something to decide.
            card = replace(card, embedding=_at_median(out_of_distribution.embedding_of(known.numpy()), known.numpy()))
        if number == 1:
            card = replace(card, crop=crop)
        members.append(ours.save(str(folder / name), card, network))
    return Ensemble(tuple(members), (segmenter,), explain=explains)


def _at_median(embedding: Embedding, known: np.ndarray) -> Embedding:
    return embedding._replace(
        limit=float(np.median(out_of_distribution.distance(known, embedding._replace(limit=np.inf))))
    )


def pixels_of(ensemble: Ensemble, drawn: models.Films) -> dict[Preparation, np.ndarray]:
    """The films under every preparation of the ensemble, (N, S, S) uint8."""
    return {preparation: drawn.resized(preparation.side_px) for preparation in ensemble.preparations}


def noise(ensemble: Ensemble, views: int) -> dict[Preparation, np.ndarray]:
    """Noise in place of films, where only time counts."""
    rng = np.random.default_rng(0)
    return {
        preparation: rng.integers(0, 256, (views, preparation.side_px, preparation.side_px), dtype=np.uint8)
        for preparation in ensemble.preparations
    }
