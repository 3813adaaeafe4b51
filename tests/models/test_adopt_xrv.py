"""Models of torchxrayvision, adopted: their logits are torchxrayvision's own."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import xrv_files
from torch import Tensor, nn

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt import sources
from cxrpipe.models.adopt.adopted import Adopted
from cxrpipe.models.architectures import build
from cxrpipe.models.libraries import torchxrayvision

RSNA, RESNET = "densenet121-res224-rsna", "resnet50-res512-all"


def adopt(file: Path, **settings: object) -> Adopted:
    return sources.adopt(AdoptConfig(source=f"xrv:{file}", dry_run=True, **settings))  # type: ignore[arg-type]


def views_of(side_px: int, count: int = 4) -> Tensor:
    """(N, 1, S, S) float, -1024..1024: noise of several grains."""
    torch.manual_seed(1)
    grains = [torch.rand(count, 1, side_px // grain, side_px // grain) for grain in (1, 8, 32)]
    sums = sum(nn.functional.interpolate(grain, (side_px, side_px)) for grain in grains)
    return (2 * sums / 3 - 1) * 1024


@torch.inference_mode()
def in_float64(network: nn.Module | bytes, views: Tensor) -> Tensor:
    """Logits without the rounding of float32: 10^-5 of logits is less than it leaves of a random network."""
    assert isinstance(network, nn.Module)
    logits: Tensor = network.eval().double()(views.double())
    return logits


class Pair(NamedTuple):
    """A model of torchxrayvision, and what we make of its weights file."""

    theirs: nn.Module
    ours: Adopted


@pytest.fixture(scope="module")
def rsna(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A DenseNet of one data set."""
    folder = tmp_path_factory.mktemp("xrv")
    theirs = xrv_files.densenet(folder, RSNA, views_of(224))
    return Pair(theirs, adopt(folder / xrv_files.file_of(RSNA), trust_pickle=True))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("xrv")
    theirs = xrv_files.resnet(folder, RESNET, views_of(512, 2))
    return Pair(theirs, adopt(folder / xrv_files.file_of(RESNET)))


# ---- numbers --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_densenet_gives_the_logits_of_torchxrayvision_without_its_empty_outputs(rsna):
    views = views_of(224)
    expected = in_float64(rsna.theirs, views)[:, [8, 16]]  # the other 16 have no name, and a threshold of nan
    card = rsna.ours.card
    assert card.findings == ("Pneumonia", "Lung_Opacity")
    assert card.thresholds == pytest.approx({"Pneumonia": 0.13486601, "Lung_Opacity": 0.13511065})
    assert expected.std(0).min() > 1
    torch.testing.assert_close(in_float64(rsna.ours.model, views), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_resnet_gives_the_logits_of_torchxrayvision(resnet):
    views = views_of(512, 2)
    expected = in_float64(resnet.theirs, views)[:, [place for place in range(18) if place not in (14, 17)]]
    assert expected.std(0).min() > 1
    torch.testing.assert_close(in_float64(resnet.ours.model, views), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_findings_without_operating_point_are_left_out_with_a_warning(resnet):
    *left_out, doubled = resnet.ours.facts["warnings"]
    assert len(resnet.ours.card.findings) == len(resnet.ours.card.thresholds) == 16
    assert [warning.rpartition(": ")[2] for warning in left_out] == ["Lung Lesion", "Enlarged Cardiomediastinum"]
    assert "sigmoid of a sigmoid" in doubled


def test_findings_that_the_user_names_are_kept_whatever_their_operating_point(tmp_path):
    file = tmp_path / xrv_files.file_of(RESNET)
    torch.save(build("resnet50", 18).state_dict(), file)
    card = adopt(file, findings=("Lung Lesion=Lung_Lesion", "Effusion=Fluid", "Hernia=")).card
    assert {"Lung_Lesion", "Fluid", "Enlarged_Cardiomediastinum"} <= set(card.findings)
    assert not {"Hernia", "Pleural_Effusion"} & set(card.findings)
    assert "Lung_Lesion" not in card.thresholds


@pytest.mark.slow
def test_the_cards_prepare_films_as_torchxrayvision_does(rsna, resnet):
    for card, side_px in ((rsna.ours.card, 224), (resnet.ours.card, 512)):
        assert (card.side_px, card.intensity, card.fit, card.crop_fraction) == (side_px, "xrv", "center-crop", 1.0)
        assert (card.resize, card.channels, card.views) == ("skimage", 1, "frontal")
        pixels = np.array([0, 100, 255], np.uint8)
        theirs = torchxrayvision().utils.normalize(pixels, 255)
        assert (pixels / 255 - card.mean) / card.std == pytest.approx(theirs)


@pytest.mark.slow
def test_the_facts_say_where_the_model_comes_from(rsna):
    facts = rsna.ours.facts
    assert facts["licence"] == "Apache-2.0"
    assert "MIDL 2022" in facts["citation"]
    assert facts["url"].endswith(xrv_files.file_of(RSNA))
    assert len(facts["file_sha256"]) == 64


@pytest.mark.slow
def test_a_file_of_another_name_has_the_findings_of_torchxrayvision_and_no_licence(rsna, tmp_path):
    state = {key: value for key, value in rsna.theirs.state_dict().items() if key != "op_threshs"}
    torch.save(state, tmp_path / "mine.pt")
    adopted = adopt(tmp_path / "mine.pt")
    assert len(adopted.card.findings) == 18
    assert not adopted.card.thresholds
    assert adopted.facts["licence"] is None
    assert "its outputs are torchxrayvision's" in adopted.assumed[0]


# ---- PSPNet ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.nn.functional.upsample. is deprecated")  # torchxrayvision's
def test_pspnet_gives_the_structures_of_torchxrayvision(tmp_path):
    theirs = xrv_files.pspnet(tmp_path)
    adopted = adopt(tmp_path / xrv_files.PSPNET_FILE)
    assert "IEEE TMI 2021" in adopted.facts["citation"]
    with pytest.raises(ConfigError, match="leave --findings out"):
        adopt(tmp_path / xrv_files.PSPNET_FILE, findings=("Mass",))
    card = adopted.card
    spelled = [name.lower().replace(" ", "_") for name in theirs.targets]
    shared = [(one, other) for one, other in zip(card.structures, spelled, strict=True) if one == other]
    assert len(shared) == 10, "all but hila, diaphragm and oesophagus, which torchxrayvision names in Latin and German"
    assert (card.task, card.architecture, card.side_px, card.channels) == ("segment", "xrv:PSPNet", 512, 3)
    films = torch.rand(2, 1, 128, 128)  # 0..1
    ready = torch.cat([(films - mean) / std for mean, std in zip(card.mean, card.std, strict=True)], 1)
    # All of torchxrayvision's forward but the resizing to 512 px, where a view takes 5 s.
    theirs_ready = theirs.transform(((2 * films - 1) * 1024).repeat(1, 3, 1, 1) / 2048 + 0.5)
    torch.testing.assert_close(ready, theirs_ready, atol=1e-5, rtol=0)
    expected = in_float64(theirs.model, ready)
    assert expected.std((0, 2, 3)).min() > 1
    assert expected.shape == (2, 14, 128, 128)
    torch.testing.assert_close(in_float64(adopted.model, ready), expected, atol=1e-4, rtol=0)


# ---- refusals -------------------------------------------------------------------------------------------------


def test_a_pickle_is_not_opened_without_trust(tmp_path):
    touched, file = tmp_path / "touched", tmp_path / "evil.pt"
    torch.save(Evil(touched), file)
    with pytest.raises(ConfigError, match=r"pickled Python objects.*not opened.*--trust-pickle"):
        adopt(file)
    assert not touched.exists()


@pytest.mark.slow
def test_a_pickle_that_is_trusted_reaches_neither_files_nor_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    touched, file = tmp_path / "touched", tmp_path / "evil.pt"
    torch.save(Evil(touched), file)
    with pytest.raises(ConfigError, match=r"cannot be opened \(.*PermissionError.*no secret, home empty"):
        adopt(file, trust_pickle=True)
    assert not touched.exists()


class Evil:
    """Its pickle writes a file and opens a socket, and then tells in an error what it could do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        code = f"""
import os, socket
failed = []
for attempt in (lambda: open({str(self.file)!r}, "w"), lambda: socket.socket()):
    try:
        attempt()
    except OSError as error:
        failed.append(type(error).__name__)
secret = "no secret" if "AWS_SECRET_ACCESS_KEY" not in os.environ else "SECRET"
home = "home empty" if os.environ["HOME"].startswith("/tmp") else "HOME"
raise RuntimeError(" ".join(failed) + " " + secret + ", " + home)
"""
        return exec, (code, {})


def test_a_missing_file_is_named_with_its_url_and_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"fetch https://\S+/nih-pc-chex\S+best.pt into ~/.torchxrayvision/models_data/"
    ):
        sources.adopt(AdoptConfig(source="xrv:densenet121-res224-all", dry_run=True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a weights file"),
        (b"<html>404</html>", "not a weights file"),
        (b"PK\x03\x04 and then nothing", "not a weights file"),
        (b"\x80\x02 and then nothing", "pickled|not a weights file"),
    ],
)
def test_a_file_that_is_no_weights_file_is_refused(tmp_path, content, said):
    file = tmp_path / "model.pt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        adopt(file)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(3, 3)}, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="expected its DenseNet-121, ResNet-50 or PSPNet"):
        adopt(tmp_path / "model.pt")


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no model of this name; .* densenet121-res224-all.* PSPNet"):
        sources.adopt(AdoptConfig(source="xrv:densenet", dry_run=True))


def test_every_published_model_has_as_many_operating_points_as_outputs():
    from cxrpipe.models.adopt.xrv_published import published

    for model in published():
        assert len(model.outputs) == len(model.thresholds)
        unnamed = [point for name, point in zip(model.outputs, model.thresholds, strict=True) if not name]
        assert all(map(math.isnan, unnamed))
