"""The program `probe`: heads from stored vectors, and rows that are derived with them while the archive is away."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from builders import png, segmenter, small_classifier, table_of
from engines import must_not_run

from cxrpipe.archives.index import index
from cxrpipe.config import ProbeConfig, ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.join import refuse_other_seed
from cxrpipe.models.card import Embedding
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.models.folder import ModelFolder, open_model, save_model
from cxrpipe.programs import probe
from cxrpipe.programs.score import score_archive
from cxrpipe.records import ModelReport, RunReport, complete_runs, read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.derive_heads import vector_sources
from cxrpipe.runs.engine import loop
from cxrpipe.runs.root import ScoreRoot

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "scored_here")]

OF_SOURCE = {"archive": "elsewhere", "split_seed": 3, "licence": "MIT", "citation": "Doe 2026"}
FAR_FROM_ALL = Embedding((0.0,) * 1024, (1.0,) * 1024, 0.0)
SPLITS = ["train"] * 60 + ["valid"] * 40 + ["test"] * 20


class Scored(NamedTuple):
    folder: Path
    archive: Path
    table: str
    root: str
    source: ModelFolder
    lungs: ModelFolder

    def probe(self, out: Path | str, **settings: Any) -> int:
        given = {"scores": self.root, "studies": self.table, "findings": ("Bright",), "out": str(out)}
        return probe.run(ProbeConfig(**(given | settings)))

    def score(self, root: str, engine=loop, **settings: Any) -> pa.Table:
        """The rows of a new run into a root, in the order of the studies."""
        config = ScoreConfig(**({"studies": self.table, "out": root, "precision": "fp32"} | settings))
        assert score_archive(config, engine) == 0
        return read_scores(root, complete_runs(root).newest.fingerprint).sort_by("study_id")

    @contextmanager
    def archive_away(self) -> Iterator[None]:
        hidden = self.archive.rename(self.folder / "hidden")
        try:
            yield
        finally:
            hidden.rename(self.archive)


def _louder(model: ModelFolder) -> ModelFolder:
    """The same network with features near 1; without training they are near 10⁻⁶, below the resolution of 16 bits."""
    state = safetensors.torch.load(model.read_weights())
    state["conv5.1.weight"] *= 1e6
    return save_model(model.url, model.card, safetensors.torch.save(state), OF_SOURCE)


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Scored:
    """120 studies of one or two films, scored with vectors. A film is bright where its study has the finding."""
    folder = tmp_path_factory.mktemp("probed")
    archive = folder / "archive"
    archive.mkdir()
    rng = np.random.default_rng(0)
    rows = ["study_id,path,patient_id,split,label_Bright,label_Coin,label_Same,label_Never,label_Early"]
    for number, split in enumerate(SPLITS):
        study, bright, coin = f"s{number:03d}", rng.random() < 0.4, rng.random() < 0.5
        label = "-1" if number % 10 == 9 else int(bright)
        for view in range(1 + number % 2):
            pixels = rng.integers(0, 256, (48, 40)) * rng.uniform(0.5, 0.8) + 40 * (bright + rng.normal(0, 0.2))
            (archive / f"{study}_{view}.png").write_bytes(png(pixels.clip(0, 255).astype(np.uint8)))
            rows.append(f"{study},{study}_{view}.png,p{number // 2},{split},{label},{int(coin)},1,,{int(number < 30)}")
    (archive / "table.csv").write_text("\n".join(rows))
    table = str(folder / "studies.parquet")
    index(str(archive / "table.csv"), table)
    (archive / "s119_1.png").write_bytes(b"no image")
    source = _louder(small_classifier(folder / "source", side_px=64, embedding=FAR_FROM_ALL))
    made = Scored(folder, archive, table, str(folder / "root"), source, segmenter(folder / "lungs"))
    made.score(made.root, models=(source.url,), segmenter=(made.lungs.url,), embed=True)
    return made


@pytest.fixture(scope="module")
def made(scored, tmp_path_factory) -> ModelFolder:
    out = tmp_path_factory.mktemp("made") / "bright"
    assert scored.probe(out, findings=("Bright", "Coin", "Early")) == 0
    return open_model(str(out), "classify")


def test_a_head_finds_what_is_there_and_nothing_in_a_coin(made):
    valid = made.card.facts["valid"]
    assert valid["per_finding"]["Bright"] > 0.95
    low, high = valid["interval"]["Coin"]
    assert low < 0.5 < high


def test_the_card_is_that_of_the_source_with_another_head(scored, made):
    card, source = made.card, scored.source.card
    assert (card.findings, card.head, card.task) == (("Bright", "Coin", "Early"), "linear", "classify")
    assert card.preparation == source.preparation
    assert card.backbone is not None
    assert (card.backbone.weights_sha256, card.backbone.head) == (source.weights_sha256, "fc")
    assert set(card.aggregation.values()) == {"max"}
    assert card.calibration["Bright"][0] > 0


def test_a_finding_that_no_valid_study_has_stays_uncalibrated_and_has_no_auroc(made):
    card = made.card
    assert "Early" not in card.calibration
    assert card.thresholds["Early"] == 0.5
    assert card.facts["valid"]["per_finding"]["Early"] is None
    assert card.facts["valid"]["score"] is not None


def test_the_card_says_what_the_heads_learned_from(scored, made):
    facts, table = made.card.facts, StudyTable(scored.table)
    assert facts["archive"] == table.metadata["archive"]
    assert str(facts["split_seed"]) == table.metadata["split_seed"]
    assert (facts["population"]["train"]["studies"], facts["population"]["valid"]["studies"]) == (60, 40)
    assert facts["heads"]["scores"] == scored.root
    assert facts["heads"]["runs"] == [report.run_id for report in complete_runs(scored.root)]
    assert (facts["licence"], facts["citation"]) == ("MIT", "Doe 2026")
    assert facts["backbone"] == {"archive": "elsewhere", "split_seed": 3}
    json.dumps(facts, allow_nan=False)


def test_pictures_lie_beside_the_weights(made):
    for name in ("roc.png", "confusion.png", "reliability.png"):
        assert (Path(made.url) / name).stat().st_size > 5_000


def test_the_test_split_changes_nothing(scored, made, tmp_path):
    """The same heads come out where every label of the test split is turned around."""
    turned = (scored.archive / "table.csv").read_text().replace("test,1", "test,x").replace("test,0", "test,1")
    (scored.archive / "turned.csv").write_text(turned.replace("test,x", "test,0"))
    index(str(scored.archive / "turned.csv"), str(tmp_path / "turned.parquet"))
    assert (
        scored.probe(tmp_path / "again", findings=("Bright", "Coin", "Early"), studies=str(tmp_path / "turned.parquet"))
        == 0
    )
    again = open_model(str(tmp_path / "again"), "classify").card
    assert (again.weights_sha256, again.thresholds) == (made.card.weights_sha256, made.card.thresholds)


def test_a_forgotten_patient_teaches_nothing(scored, tmp_path):
    root = shutil.copytree(scored.root, tmp_path / "root")
    ScoreRoot.at(str(root)).forget("p3")  # studies s006 and s007; their rows are still there
    assert scored.probe(tmp_path / "without", scores=str(root)) == 0
    assert open_model(str(tmp_path / "without"), "classify").card.facts["population"]["train"]["studies"] == 58


def test_a_head_of_a_head_has_the_same_backbone(scored, made, tmp_path):
    root = str(tmp_path / "root")
    scored.score(root, models=(made.url,), embed=True)
    assert scored.probe(tmp_path / "second", scores=root) == 0
    second = open_model(str(tmp_path / "second"), "classify").card
    assert second.backbone == made.card.backbone
    assert second.facts["backbone"] == made.card.facts["backbone"]
    (model,) = complete_runs(root).newest.members
    assert (model.backbone_archive, model.backbone_split_seed) == ("elsewhere", 3)


def test_heads_on_a_backbone_that_has_seen_these_test_studies_are_refused_as_it_would_be(scored, tmp_path):
    table = table_of(tmp_path, StudyTable(scored.table).studies("valid"))
    seen = ModelReport(url="m", backbone_archive=table.metadata["archive"], backbone_split_seed=3)
    with pytest.raises(ConfigError, match="m was trained on this archive under split seed 3, the table has 7"):
        refuse_other_seed([RunReport(models=(seen,))], table)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no vectors": ({"scores": "{plain}"}, "no feature vectors there; score with --embed"),
    "no root": ({"scores": "{folder}/nowhere"}, "no complete run"),
    "unknown finding": ({"findings": ("Zork",)}, "findings Zork are not labelled"),
    "no label": ({"findings": ("Bright", "Never")}, "lack positive or negative examples of Never"),
    "one class": ({"findings": ("Same",)}, "lack positive or negative examples of Same"),
    "a model there": ({"out": "{folder}/source"}, "a model is there already"),
    "another member": ({"member": "zork"}, "--member 'zork'; {folder}/root was scored by source"),
    "another model": ({"model": "{folder}/other"}, "not the model that scored"),
    "another card": ({"model": "{folder}/changed"}, "its card has another mean than when it scored"),
    "no model": ({"model": "{folder}/nowhere"}, "not a model folder"),
    "a refit": ({"scores": "{refit}"}, "a refit, which has learned from the valid split of this archive"),
}


@pytest.fixture(scope="module")
def given(scored) -> dict[str, str]:
    small_classifier(scored.folder / "other", seed=5)
    weights = scored.source.read_weights()
    save_model(str(scored.folder / "changed"), replace(scored.source.card, mean=0.4), weights, {})
    plain = str(scored.folder / "plain")
    scored.score(plain, models=(scored.source.url,), limit=4)
    table = StudyTable(scored.table).metadata
    facts = {"archive": table["archive"], "split_seed": f"{table['split_seed']}; refit over development, seed 0"}
    refit = save_model(str(scored.folder / "refit_model"), scored.source.card, weights, facts)
    scored.score(str(scored.folder / "refit"), models=(refit.url,), limit=2)
    return {"folder": str(scored.folder), "plain": plain, "refit": str(scored.folder / "refit")}


@pytest.mark.parametrize("case", [*REFUSED])
def test_a_refusal_is_one_line_and_writes_nothing(scored, given, tmp_path, case):
    settings, message = REFUSED[case]
    filled = {key: value.format_map(given) if isinstance(value, str) else value for key, value in settings.items()}
    out = tmp_path / "out"
    with pytest.raises(ConfigError) as refused:
        scored.probe(**({"out": out} | filled))
    assert message.format_map(given) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not out.exists()


# ---- scoring with the new model -----------------------------------------------------------------------------------


@pytest.fixture
def root(scored, tmp_path) -> str:
    """A copy of the root with the vectors."""
    return shutil.copytree(scored.root, tmp_path / "root").as_posix()


@pytest.fixture(scope="module")
def computed(scored, made, tmp_path_factory) -> pa.Table:
    """The rows of the new model and its source, computed from the images."""
    root = str(tmp_path_factory.mktemp("computed") / "root")
    return scored.score(root, models=(made.url, scored.source.url), segmenter=(scored.lungs.url,), embed=True)


def numbers(values: Any) -> np.ndarray:
    """All numbers of nested lists; null becomes nan."""
    if isinstance(values, list):
        return np.concatenate([np.zeros(0), *map(numbers, values)])
    return np.array([np.nan if values is None else values])


def assert_same(derived: pa.Table, computed: pa.Table) -> None:
    """Equal rows, but for probabilities and vectors, which may differ by a thousandth."""
    assert derived.schema == computed.schema
    for name in derived.column_names:
        pair = [rows[name].to_pylist() for rows in (derived, computed)]
        if name == "views":
            answers = [[view.pop("member_probs") for views in rows for view in views] for rows in pair]
            np.testing.assert_allclose(*map(numbers, answers), atol=1e-3)
        if name.startswith(("prob_", "disagreement_", "member_probs_", "feature_vectors")):
            np.testing.assert_allclose(*map(numbers, pair), atol=1e-3, err_msg=name)
        else:
            assert pair[0] == pair[1], name


def test_rows_are_derived_while_the_archive_is_away_and_are_those_computed_from_images(scored, made, computed, root):
    with scored.archive_away():
        rows = scored.score(
            root, must_not_run, models=(made.url, scored.source.url), segmenter=(scored.lungs.url,), embed=True
        )
    assert complete_runs(root).newest.derived == len(SPLITS)
    assert {"ok", "partial"} == set(rows["status"].to_pylist())
    assert "ood" in {flag for flags in rows["flags"].to_pylist() for flag in flags}
    assert_same(rows, computed)


def test_without_the_segmenter_its_columns_are_gone(scored, made, computed, root):
    with scored.archive_away():
        rows = scored.score(root, must_not_run, models=(made.url,), incremental=True)
    assert rows["masks"].null_count == len(SPLITS)
    assert "feature_vectors" not in rows.column_names
    views = [view for of_study in rows["views"].to_pylist() for view in of_study]
    assert {view["lung_fraction"] for view in views} == {None}
    np.testing.assert_allclose(
        [row[0] for row in rows["member_probs_Bright"].to_pylist()],
        [row[0] for row in computed["member_probs_Bright"].to_pylist()],
        atol=1e-3,
    )


def test_a_study_without_a_vector_is_scored_from_its_image(scored, made, root):
    (published,) = Path(root, "scores").glob("run=*/*.parquet")
    rows = pq.read_table(published)
    vectors = rows["feature_vectors"].to_pylist()
    vectors[7] = [None] * len(vectors[7])
    column = pa.array(vectors, rows.schema.field("feature_vectors").type)
    pq.write_table(rows.set_column(rows.column_names.index("feature_vectors"), "feature_vectors", column), published)
    scored_ = scored.score(root, models=(made.url,))
    assert complete_runs(root).newest.derived == len(SPLITS) - 1
    assert scored_["prob_Bright"].null_count == 0
    assert len(set(scored_["study_id"].to_pylist())) == len(SPLITS)


def test_a_run_is_no_source_where_another_network_or_preparation_would_answer(scored, made):
    (report,) = complete_runs(scored.root)
    ensemble = open_ensemble([made.url], [scored.lungs.url])
    assert len(list(vector_sources([report], ensemble))) == 1

    def changed(**card: object) -> Ensemble:
        return replace(ensemble, members=(ModelFolder(made.url, replace(made.card, **card)),))

    others = {
        "heat maps need images": ([report], replace(ensemble, explain=True)),
        "variants have no vectors": ([report], replace(ensemble, tta=True)),
        "another mean": ([report], changed(mean=0.4)),
        "another intensity": ([report], changed(intensity="nih")),
        "another backbone": ([report], changed(backbone=made.card.backbone._replace(weights_sha256="0"))),
        "another segmenter": (
            [report],
            replace(ensemble, segmenters=(ModelFolder("x", replace(scored.lungs.card, weights_sha256="0")),)),
        ),
        "one more segmenter": (
            [report],
            replace(ensemble, segmenters=(*ensemble.segmenters, *ensemble.segmenters)),
        ),
        "another decoder": ([replace(report, versions={**report.versions, "preparation": "3"})], ensemble),
        "an older report": ([replace(report, models=[replace(model, card=None) for model in report.models])], ensemble),
    }
    assert [case for case, (reports, models) in others.items() if list(vector_sources(reports, models))] == []
