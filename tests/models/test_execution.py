"""The fast path says what plain float32 says, and is chosen by what the machine has."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from builders import FINDINGS, classifier, segmenter
from torch import nn

from cxrpipe.archives import phantom
from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.images import letterbox, radiographs
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import architectures, exact, execution, explain, fusing, weights
from cxrpipe.models.compiling import FixedCalls
from cxrpipe.models.consensus import combine
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.normalise import normalise
from cxrpipe.records.study_table import StudyTable
from cxrpipe.scoring.predict import Predictor

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
PARITY = 0.01  # of the contract, for bf16
EXACT = 1e-4  # float32: folded weights round otherwise


def films(number: int = 3, side_px: int = 64) -> np.ndarray:
    """(N, S, S) uint8"""
    return np.random.default_rng(side_px).integers(0, 256, (number, side_px, side_px), dtype=np.uint8)


def batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def lively(architecture: str, outputs: int, side_px: int = 64) -> nn.Module:
    """A network whose batch normalisations do something, as after a training."""
    torch.manual_seed(0)
    network = architectures.build(architecture, outputs, side_px)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(
    ("architecture", "left"),
    [("resnet18", 0), ("unet-resnet18", 0), ("shufflenet_v2_x0_5", 0), ("densenet121", 62)],
)
@torch.inference_mode()
def test_a_fused_network_says_the_same_with_fewer_normalisations(architecture, left):
    network = lively(architecture, 2)
    views = torch.rand(2, 1, 64, 64)
    expected = network(views)
    fused = fusing.fused(network)
    assert batch_norms(fused) == left
    torch.testing.assert_close(fused(views), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(("has_unit", "chosen"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_is_chosen_by_the_machine_and_can_be_named(monkeypatch, has_unit, chosen):
    monkeypatch.setattr("cxrpipe.models.precision.has_bf16_units", lambda _: has_unit)
    assert execution.plan("cpu", "auto").dtype == chosen
    assert execution.plan("cpu", "fp32").dtype == torch.float32
    assert execution.plan("cpu", "bf16").dtype == torch.bfloat16


def test_a_plan_travels_to_other_processes():
    plan = execution.Execution(CPU, "bf16", False, "not compiled: 3 s of networks do not repay a trial")
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.fixture
def trials(monkeypatch) -> list[tuple[str, int]]:
    """The trials that `decide` made, in place of compiling: compiling takes 100 s and halves the 10 ms of a view."""
    tried: list[tuple[str, int]] = []

    def trial(network: nn.Module, side_px: int, plan: execution.Execution, channels: int) -> execution.Trial:
        tried.append((type(network).__name__, side_px))
        return execution.Trial(fused_s=0.01, compiled_s=0.005, compile_s=100.0)

    monkeypatch.setattr(execution, "trial", trial)
    monkeypatch.setattr(execution, "_fused_seconds", lambda card, plan: 0.01)
    return tried


def test_networks_are_compiled_when_asked_and_never_without_a_trial(members, trials):
    cards = [member.card for member in members]
    assert execution.decide(cards, 1, "cpu", "fp32", "on").compiled
    assert not execution.decide(cards, 10**9, "cpu", "fp32", "off").compiled
    short, longer = (execution.decide(cards, views, "cpu", "fp32", "auto") for views in (9999, 20_000))
    assert not short.compiled
    assert short.why == "not compiled: 9999 views do not repay a trial"
    assert longer.why == "not compiled: 400 s of networks do not repay a trial"
    assert trials == []


def test_a_long_run_compares_and_takes_what_is_faster(members, trials, monkeypatch):
    cards = [members[0].card, members[0].card, members[1].card]  # two networks, one of them twice
    plan = execution.decide(cards, 1_000_000, "cpu", "fp32", "auto")
    assert plan.compiled
    assert plan.why == "compiled: compiling saves 15000 s of 30000 s and takes 200 s, by a trial"
    assert len(trials) == 2
    monkeypatch.setattr(execution, "trial", lambda *_: execution.Trial(0.01, 0.011, 100.0))
    assert not execution.decide(cards, 1_000_000, "cpu", "fp32", "auto").compiled


def test_a_trial_measures_a_network_as_it_runs(members, monkeypatch):
    """The compiler is left out here: what it would make is the network itself."""
    monkeypatch.setattr(torch, "compile", lambda network, **settings: network)
    card = members[0].card
    measured = execution.trial(architectures.build_from_card(card).eval(), card.side_px, execution.plan("cpu"))
    assert 0 < measured.fused_s < 1
    assert 0 < measured.compiled_s < 1
    assert measured.compile_s > 0


def said_by(ensemble: Ensemble, plan: execution.Execution) -> tuple:
    predictor = Predictor(ensemble, plan=plan)
    sizes = {each: films(side_px=each.side_px) for each in ensemble.preparations}
    return predictor.predict(sizes), predictor.computed_on


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "densenet121", "vit_b_16", "efficientnet_b0", "smallcnn", "unet-resnet18", "unet-classic"],
)
def test_in_bf16_the_first_convolutions_and_the_logits_stay_exact_and_nothing_else(architecture):
    """The first one and the logits in float32, the next ones with weights of two terms, which have 16 bits."""
    network = architectures.build(architecture, 1, 64).eval()
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    first, *next_ones = names[: exact.EXACT_CONVOLUTIONS]
    weights_before = {name: network.get_submodule(name).weight.clone() for name in (first, *next_ones)}
    logits = [] if architecture.startswith("unet") else [architectures.head_of(network)[1]]
    in_float32 = [value.clone() for layer in [network.get_submodule(first), *logits] for value in layer.parameters()]
    moved = execution.move(network, execution.plan("cpu", "bf16"))
    kept = [value for value in moved.parameters() if value.dtype == torch.float32]
    assert [value.shape for value in kept] == [value.shape for value in in_float32]
    assert all(map(torch.equal, kept, in_float32))
    for name in next_ones:
        layer = moved.get_submodule(name)
        assert layer.rest.dtype == layer.layer.weight.dtype == torch.bfloat16
        sum_of_terms = layer.layer.weight.float() + layer.rest.float()
        torch.testing.assert_close(sum_of_terms, weights_before[name], rtol=2**-16, atol=0)
    with torch.inference_mode():
        assert moved(torch.rand(1, 1, 64, 64)).dtype == (torch.float32 if logits else torch.bfloat16)


@pytest.mark.slow
def test_bf16_is_within_the_contract_of_float32_in_probabilities_and_masks(members, lungs):
    """Emulated here, where the processor has no unit for it: the same rounding, slower."""
    ensemble = Ensemble(members, (lungs,))
    exact, _ = said_by(ensemble, execution.plan("cpu", "fp32"))
    rough, computed_on = said_by(ensemble, execution.plan("cpu", "bf16"))
    assert computed_on == "cpu bfloat16 fused"
    assert 0 < np.abs(rough.probs - exact.probs).max() <= PARITY
    assert np.mean(rough.masks != exact.masks) < 0.05
    assert rough.expected_dice == pytest.approx(exact.expected_dice, abs=PARITY)


def flips(ensemble: Ensemble, exact: np.ndarray, rough: np.ndarray) -> int:
    """Consensus that is another in bf16, though no member's probability lies within 0.01 of its threshold."""
    thresholds = np.stack([member.card.operating_points for member in ensemble.members])
    one, other = (combine(probs, thresholds).agreed for probs in (exact, rough))
    clear = (np.abs(exact - thresholds[:, None]) > PARITY).all(axis=0)
    return int(((one != other) & clear).sum())


def check_parity(ensemble: Ensemble, films: list[np.ndarray]) -> None:
    pixels = {
        each: np.stack([letterbox.prepare(radiographs.Radiograph(film), each.side_px) for film in films])
        for each in ensemble.preparations
    }
    exact, rough = (
        Predictor(ensemble, plan=execution.plan("cpu", precision)).predict(pixels).probs
        for precision in ("fp32", "bf16")
    )
    assert np.abs(rough - exact).max() <= PARITY
    assert flips(ensemble, exact, rough) == 0


@pytest.mark.slow
def test_bf16_flips_no_consensus_on_drawn_radiographs(members):
    check_parity(Ensemble(members), [phantom.radiograph(np.random.default_rng(seed)).pixels for seed in range(8)])


@pytest.mark.slow
def test_bf16_flips_no_consensus_on_real_radiographs(members, real_data, tmp_path):
    index(str(real_data / "nih"), str(tmp_path / "studies.parquet"))
    table = StudyTable(str(tmp_path / "studies.parquet"))
    with Reader(table.seek_points) as reader:
        films = [radiographs.decode(reader.read(study.views[0]), "voi").pixels for study in islice(table.studies(), 24)]
    check_parity(Ensemble(members), films)


@torch.inference_mode()
def test_float32_is_what_the_plain_network_says(members):
    said, computed_on = said_by(Ensemble(members), execution.plan("cpu", "fp32"))
    assert computed_on == "cpu float32 fused"
    for member, probs in zip(members, said.probs, strict=True):
        views = torch.from_numpy(films(side_px=member.card.side_px))[:, None]
        plain = weights.load(member)(normalise(views, member.card).contiguous())
        np.testing.assert_allclose(probs, plain.sigmoid().numpy(), atol=EXACT)


def test_a_machine_without_a_compiler_goes_on_without_and_says_so_once(members, monkeypatch, capsys):
    def refuse(network: nn.Module, **settings: object) -> object:
        def call(views: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no working C++ compiler was found\n  in seven lines of detail")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    exact, _ = said_by(Ensemble(members[:1]), execution.plan("cpu"))
    said, computed_on = said_by(Ensemble(members[:1]), execution.plan("cpu", compile="on"))
    assert computed_on == "cpu float32 fused"
    np.testing.assert_array_equal(said.probs, exact.probs)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no working C++ compiler was found" in line


@pytest.mark.parametrize(("views", "calls"), [(3, [8]), (8, [8]), (9, [64]), (64, [64]), (135, [64, 64, 8])])
def test_a_network_made_for_a_few_sizes_of_calls_sees_every_view_once(views, calls):
    """Calls are filled up with black at the end, which nobody gets to see."""
    sizes = []

    def network(views: torch.Tensor) -> explain.Explained:
        sizes.append(len(views))
        return explain.Explained(views.mean((1, 2, 3)), views, views[:, :, 0])

    films = torch.rand(views, 1, 4, 4)
    answers = FixedCalls(network, (8, 64))(films)
    assert sizes == calls
    torch.testing.assert_close(answers, explain.Explained(films.mean((1, 2, 3)), films, films[:, :, 0]))


@pytest.mark.slow
def test_compiled_and_frozen_networks_say_the_same(tmp_path):
    """With heat maps, so that a compiled network that explains itself is tried too."""
    ensemble = Ensemble((classifier(tmp_path / "a", side_px=64),), (segmenter(tmp_path / "u"),), explain=True)
    exact, _ = said_by(ensemble, execution.plan("cpu"))
    said, computed_on = said_by(ensemble, execution.plan("cpu", compile="on"))
    assert computed_on == "cpu float32 compiled"
    np.testing.assert_allclose(said.probs, exact.probs, atol=EXACT)
    np.testing.assert_allclose(said.maps[0], exact.maps[0], atol=EXACT * exact.maps[0].max())
    assert said.probs.shape == (1, 3, len(FINDINGS))
    assert np.mean(said.masks != exact.masks) < 0.005


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_in_bf16_is_within_the_contract_of_a_cpu_in_float32(members, lungs):
    ensemble = Ensemble(members, (lungs,))
    exact, _ = said_by(ensemble, execution.plan("cpu"))
    rough, computed_on = said_by(ensemble, execution.plan("cuda", "auto"))
    assert computed_on.endswith("bfloat16 fused")
    assert np.abs(rough.probs - exact.probs).max() <= PARITY


def test_preparations_that_members_share_are_uploaded_once(members, monkeypatch):
    uploaded = []
    upload = Predictor._upload
    monkeypatch.setattr(Predictor, "_upload", lambda self, views: uploaded.append(views) or upload(self, views))
    ensemble = Ensemble((*members, members[0]))
    said_by(ensemble, execution.plan("cpu"))
    assert sorted(len(views[0]) for views in uploaded) == [32, 64]
    assert ensemble.preparations == (Preparation("voi", 32), Preparation("voi", 64))
