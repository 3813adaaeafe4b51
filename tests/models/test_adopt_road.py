"""Films through torchxrayvision's whole road and through ours: load, crop, resize, normalise, network."""

import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import xrv_files
from builders import png
from torch import Tensor, nn

from cxrpipe.config import AdoptConfig
from cxrpipe.images.squares import decode_view
from cxrpipe.models import execution, normalise
from cxrpipe.models.adopt import sources
from cxrpipe.models.adopt.adopted import Adopted
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import open_ensemble
from cxrpipe.models.folder import save_model
from cxrpipe.models.libraries import torchxrayvision
from cxrpipe.scoring.predict import Predictor

pytestmark = pytest.mark.slow

FILMS = 6
DENSENET, RESNET = "densenet121-res224-chex", "resnet50-res512-all"
CUT_PX = 200


@pytest.fixture(scope="module")
def films(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Films of NIH ChestX-ray14, which are all square: by turns one as it is, one cut in width, one cut in height."""
    folder = tmp_path_factory.mktemp("films")
    files = []
    with tarfile.open(real_data / "nih" / "images_001.tar.gz") as archive:
        for entry in archive:
            if entry.name.endswith(".png") and len(files) < FILMS:
                content = archive.extractfile(entry)
                assert content
                film = cv2.imdecode(np.frombuffer(content.read(), np.uint8), cv2.IMREAD_GRAYSCALE)
                cut = (film, film[:, CUT_PX:], film[CUT_PX + 1 :])[len(files) % 3]
                files.append(folder / Path(entry.name).name)
                files[-1].write_bytes(png(cut))
    return files


def their_views(films: list[Path], side_px: int, rounded: bool = True) -> Tensor:
    """(N, 1, S, S) float32, -1024..1024, as torchxrayvision's documentation prepares films.

    rounded  to the nearest of 256 levels after resizing, as our squares are
    """
    xrv = torchxrayvision()
    crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(side_px)
    views = np.stack([resize(crop(xrv.utils.load_image(str(film)))) for film in films])
    if rounded:
        views = xrv.utils.normalize(np.rint((views / 1024 + 1) / 2 * 255), 255)
    return torch.from_numpy(views)


def our_views(films: list[Path], card: Card) -> Tensor:
    """(N, 1, S, S) float32, as scoring prepares films for a model."""
    squares = [decode_view(film.read_bytes(), film.name, [card.preparation]).squares for film in films]
    return normalise.normalise(torch.from_numpy(np.stack([each[card.preparation] for each in squares]))[:, None], card)


@torch.inference_mode()
def logits(network: Any, views: Tensor) -> Tensor:
    answer: Tensor = network.eval()(views)
    return answer


@pytest.fixture(scope="module")
def densenet(films: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Adopted]:
    folder = tmp_path_factory.mktemp("xrv")
    theirs = xrv_files.densenet(folder, DENSENET, their_views(films, 224))
    source = f"xrv:{folder / xrv_files.file_of(DENSENET)}"
    return theirs, sources.adopt(AdoptConfig(source=source, dry_run=True, trust_pickle=True))


def largest_difference(films: list[Path], pair: tuple[nn.Module, Adopted], rounded: bool = True, **card: Any) -> float:
    theirs, ours = pair
    named = [place for place, name in enumerate(theirs.targets) if name]  # type: ignore[arg-type]
    expected = logits(theirs, their_views(films, ours.card.side_px, rounded))[:, named]
    assert expected.std(0).min() > 1, "a network that says the same of all films would forgive a wrong crop"
    changed = replace(ours.card, **card)
    return float((logits(ours.model, our_views(films, changed)) - expected).abs().max())


def test_squares_are_those_of_torchxrayvision_rounded_to_8_bits(films, densenet):
    card = densenet[1].card
    theirs, ours = their_views(films, 224), our_views(films, card)
    levels = (theirs - ours).abs() / 2048 * 255
    assert levels.max() < 1.01
    assert (levels > 0.5).float().mean() < 1e-3


def test_a_densenet_says_of_films_what_it_says_under_torchxrayvision(films, densenet):
    assert largest_difference(films, densenet) < 1e-3


def test_scoring_in_float32_gives_the_probabilities_of_these_logits(films, densenet, tmp_path):
    theirs, ours = densenet
    save_model(str(tmp_path), ours.card, ours.weights, ours.facts)
    ensemble = open_ensemble([str(tmp_path)])
    squares = [decode_view(film.read_bytes(), film.name, ensemble.preparations).squares for film in films]
    pixels = {key: np.stack([each[key] for each in squares]) for key in ensemble.preparations}
    probs = Predictor(ensemble, "cpu", execution.plan("cpu", "fp32")).predict(pixels).probs[0]
    named = [place for place, name in enumerate(theirs.targets) if name]
    expected = logits(theirs, their_views(films, 224))[:, named].sigmoid().numpy()
    np.testing.assert_allclose(probs, expected, atol=3e-4)


def test_the_rest_is_the_rounding_to_8_bits(films, densenet):
    assert 1e-3 < largest_difference(films, densenet, rounded=False) < 0.3


@pytest.mark.parametrize("other", [{"fit": "letterbox"}, {"fit": "squash"}, {"resize": "area"}, {"resize": "bilinear"}])
def test_another_fit_or_resizer_would_be_noticed(films, densenet, other):
    assert largest_difference(films, densenet, **other) > 0.01


def test_a_resnet_says_of_films_what_it_says_under_torchxrayvision(films, tmp_path):
    films = films[:3]
    theirs = xrv_files.resnet(tmp_path, RESNET, their_views(films, 512))
    ours = sources.adopt(AdoptConfig(source=f"xrv:{tmp_path / xrv_files.file_of(RESNET)}", dry_run=True))
    views = our_views(films, ours.card)
    expected = logits(theirs, with_ties_as_ours(their_views(films, 512, rounded=False), views))
    expected = expected[:, [place for place in range(18) if place not in (14, 17)]]
    assert expected.std(0).min() > 1
    assert float((logits(ours.model, views) - expected).abs().max()) < 1e-3


def with_ties_as_ours(theirs: Tensor, ours: Tensor) -> Tensor:
    """Round theirs to 8 bits. Where float32 decides which level is nearer, within 0.001 of the middle, take ours.

    Such a pixel of 262,144 moves a logit of the random ResNet-50, which has 16 outputs for 3 films, by up to 10^-3.
    """
    levels = (theirs / 1024 + 1) / 2 * 255
    is_tie = (levels - levels.floor() - 0.5).abs() < 0.001
    return torch.where(is_tie, ours, (levels.round() / 255 * 2 - 1) * 1024)
