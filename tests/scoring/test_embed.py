"""Feature vectors: what a network's own head makes its logits of, whatever else is asked, in a column of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from builders import awake, classifier, png, radiograph, segmenter, small_classifier
from torch import nn

from cxrpipe.errors import ConfigError
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import architectures, execution, features, weights
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.records import ASIDE, Study, View, score_schema
from cxrpipe.scoring.loop import score
from cxrpipe.scoring.parts import write_part
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.prepare import Preparer

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE_PX = 64
FLOAT16 = 1e-3
"""Half of float16's step is 0.0005 of a value."""
PIXELS = {Preparation("voi", SIDE_PX): np.stack([radiograph(seed, SIDE_PX, SIDE_PX) for seed in range(3)])}


def backbone(url: Path) -> ModelFolder:
    card = Card(task="embed", architecture="shufflenet_v2_x0_5", side_px=SIDE_PX, mean=0.5, std=0.25)
    return save_model(str(url), card, weights.weights_bytes(architectures.build_from_card(card)), facts={})


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> tuple[ModelFolder, ...]:
    """A head on an average, behind a further layer, on a flat map, on the token of a transformer, and of two layers."""
    folder = tmp_path_factory.mktemp("members")
    kinds = {
        "shufflenet_v2_x0_5": {},
        "mobilenet_v3_small": {},
        "smallcnn": {},
        "timm:test_vit": {"channels": 3, "mean": (0.4, 0.5, 0.6), "std": 0.25},
        "squeezed": {"architecture": "shufflenet_v2_x0_5", "head": "mlp-16"},
    }
    return tuple(
        awake(classifier(folder / name, side_px=SIDE_PX, **({"architecture": name} | settings)))
        for name, settings in kinds.items()
    )


def vectors_of(ensemble: Ensemble, **plan: object) -> tuple[np.ndarray, ...]:
    return Predictor(ensemble, plan=execution.plan("cpu", **plan)).predict(PIXELS).features


@pytest.fixture(scope="module")
def vectors(members) -> tuple[np.ndarray, ...]:
    return vectors_of(Ensemble(members, embed=True))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", FLOAT16), ("bf16", 0.01)])
def test_a_networks_own_head_makes_its_logits_of_the_vector(members, precision, tolerance):
    """In bf16 a head of two layers computes its first one with 8 bits, each off by up to 0.004."""
    predictor = Predictor(Ensemble(members, embed=True), plan=execution.plan("cpu", precision))
    found = predictor.predict(PIXELS)
    for member, probs, vectors in zip(members, found.probs, found.features, strict=True):
        assert vectors.dtype == np.float16
        _, head = architectures.head_of(weights.load(member))
        logits = head(torch.tensor(vectors, dtype=torch.float32)).detach().numpy()
        expected = torch.tensor(probs).logit().numpy()
        np.testing.assert_allclose(logits, expected, atol=tolerance * abs(expected).max())
        assert expected.std(axis=0).max() > 0.01


def test_before_rounding_the_head_makes_the_very_logits(members):
    for member in members:
        channels, network = member.card.channels, weights.load(member)
        views = torch.rand(2, channels, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            apart = features.with_features(network, SIDE_PX, channels)
            made, _ = execution.speed_up(apart, SIDE_PX, execution.plan("cpu"))
            _, head = architectures.head_of(network)
            torch.testing.assert_close(head(made(views).features), network(views), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_a_compiled_network_gives_its_vectors_too():
    network, views = architectures.build("smallcnn", 2, 32).eval(), torch.rand(5, 1, 32, 32)
    made, kernels = execution.speed_up(features.with_features(network, 32), 32, execution.plan("cpu", "fp32", "on"))
    assert kernels == "compiled"
    torch.testing.assert_close(network.head(made(views).features), network(views), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("asked", [{"explain": True}, {"tta": True}])
def test_whatever_else_is_asked_a_vector_is_the_same(members, vectors, asked):
    for one, other in zip(vectors_of(Ensemble(members, embed=True, **asked)), vectors, strict=True):
        np.testing.assert_allclose(one, other, atol=FLOAT16 * abs(other).max())


def test_without_embed_there_are_no_vectors(members):
    assert vectors_of(Ensemble(members)) is None


def test_a_network_that_goes_on_behind_its_head_has_no_vector(monkeypatch):
    class GoesOn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(SIDE_PX**2, 8)), nn.Linear(8, 8)

        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(views)).tanh()

    network = GoesOn().eval()
    assert features.with_features(network, SIDE_PX) is network


def test_a_number_that_float16_cannot_hold_becomes_its_largest():
    from cxrpipe.models.tensors import in_16_bits

    assert in_16_bits(torch.tensor([[1e6, -1e6, 0.5]])).tolist() == [[65504, -65504, 0.5]]


# ---- backbones ------------------------------------------------------------------------------------------------


def test_a_backbone_is_a_member_where_vectors_are_kept_and_refused_otherwise(tmp_path):
    saved = backbone(tmp_path / "b")
    assert open_ensemble([saved.url], (), embed=True).findings == ()
    with pytest.raises(ConfigError, match="no findings, and gives feature vectors alone: score --models takes it with"):
        open_ensemble([saved.url])
    with pytest.raises(ConfigError, match="need classifiers, and all --models are backbones"):
        open_ensemble([saved.url], (), embed=True, tta=True)


def test_a_backbone_gives_what_the_head_of_its_classifier_sees(tmp_path):
    whole = awake(small_classifier(tmp_path / "whole", side_px=SIDE_PX))
    state = weights.load(whole).state_dict()
    bare = architectures.build_from_card(replace(whole.card, task="embed", findings=()))
    bare.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    saved = save_model(
        str(tmp_path / "bare"), replace(whole.card, task="embed", findings=()), weights.weights_bytes(bare), facts={}
    )
    (from_whole,), (from_bare,) = (vectors_of(Ensemble((each,), embed=True)) for each in (whole, saved))
    np.testing.assert_allclose(from_bare, from_whole, atol=FLOAT16 * abs(from_whole).max())


# ---- rows -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory, members):
    """Two views, one of two views that is gone, and none; by a classifier, a backbone's rows and a segmenter beside."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(2):
        (folder / f"{number}.png").write_bytes(png(radiograph(number, 70, 60)))
    views = {"two": "01", "half": "0-", "gone": "-"}
    studies = [
        Study(study_id=name, study_digest="d", views=tuple(View(url=f"{folder}/{each}.png") for each in of_study))
        for name, of_study in views.items()
    ]
    ensemble = Ensemble(members[:2], (segmenter(folder / "lungs"),), embed=True)
    (table,) = score(studies, Preparer(None, ensemble, None), Predictor(ensemble, "cpu"))
    return table


def test_the_column_holds_views_by_members_by_numbers_and_null_where_nothing_was_scored(rows):
    two, half, gone = rows["feature_vectors"].to_pylist()
    assert [[len(of_member) for of_member in view] for view in two] == [[1024, 1024]] * 2
    assert (half[0], half[1]) == (two[0], None)
    assert gone is None


def test_the_column_comes_back_from_a_part_in_16_bits(tmp_path, rows):
    write_part(rows, str(tmp_path))
    (part,) = tmp_path.iterdir()
    read = pq.read_table(part)
    assert read["feature_vectors"].type == score_schema((), embed=True).field("feature_vectors").type
    assert read["feature_vectors"].to_pylist() == rows["feature_vectors"].to_pylist()


def test_ordinary_rows_have_no_such_column_and_ordinary_queries_do_not_read_it():
    assert "feature_vectors" not in score_schema(("Mass",)).names
    assert "feature_vectors" in ASIDE


def test_a_backbone_alone_gives_rows_without_findings(tmp_path):
    (tmp_path / "0.png").write_bytes(png(radiograph()))
    ensemble = open_ensemble([backbone(tmp_path / "b").url], (), embed=True)
    study = Study(study_id="one", study_digest="d", views=(View(url=f"{tmp_path}/0.png"),))
    (table,) = score([study], Preparer(None, ensemble, None), Predictor(ensemble, "cpu"))
    (row,) = table.to_pylist()
    assert (row["status"], row["views"][0]["member_probs"]) == ("ok", None)
    assert not [name for name in row if name.startswith("prob_")]
    assert len(row["feature_vectors"][0][0]) == 1024


def test_a_backbone_beside_a_classifier_has_no_say_in_findings(tmp_path, members):
    (tmp_path / "0.png").write_bytes(png(radiograph()))
    study = Study(study_id="one", study_digest="d", views=(View(url=f"{tmp_path}/0.png"),))
    by_both, by_one = (
        score([study], Preparer(None, ensemble, None), Predictor(ensemble, "cpu"))
        for ensemble in (
            Ensemble((backbone(tmp_path / "b"), members[0]), explain=True, embed=True),
            Ensemble((members[0],)),
        )
    )
    (both,), (one,) = next(by_both).to_pylist(), next(by_one).to_pylist()
    assert both["prob_Pneumonia"] == pytest.approx(one["prob_Pneumonia"], abs=1e-5)
    assert both["member_probs_Pneumonia"] == [None, both["prob_Pneumonia"]]
    assert both["votes_Pneumonia"] == one["votes_Pneumonia"]
    assert [len(vector) for vector in both["feature_vectors"][0]] == [1024, 1024]


def test_vectors_enter_the_fingerprint_only_where_they_are_kept(members):
    plain = Ensemble(members)
    assert replace(plain, embed=True).fingerprint != plain.fingerprint
    assert replace(plain, embed=True).views_fingerprint != plain.views_fingerprint
    assert replace(plain, embed=False).fingerprint == plain.fingerprint
