"""Training on two workers, as the program does it."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray.data
import torch
from builders import FINDINGS, lung_table, nih_table, png, radiograph

from cxrpipe.archives.index import index
from cxrpipe.config import TrainConfig
from cxrpipe.config.augment import AugmentConfig
from cxrpipe.config.train_sections import CropConfig, FreezeConfig, LossConfig, OptimConfig
from cxrpipe.errors import RunError
from cxrpipe.models import weights
from cxrpipe.models.card import Crop
from cxrpipe.models.ensemble import open_ensemble
from cxrpipe.models.folder import ModelFolder, open_model
from cxrpipe.on_ray import session
from cxrpipe.on_ray import train as on_ray_train
from cxrpipe.on_ray.examples import prepare_examples, shares
from cxrpipe.on_ray.progress import listening
from cxrpipe.programs import train
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable
from cxrpipe.scoring.predict import Predictor
from cxrpipe.training.fit import _aurocs
from cxrpipe.training.plan import TrainingPlan, plan_training

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def trained(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A classifier of two epochs on two workers."""
    folder = tmp_path_factory.mktemp("train")
    table = nih_table(folder, studies=80)
    config = TrainConfig(
        task="classify",
        studies=table.url,
        out=str(folder / "model"),
        arch="resnet18",
        findings=FINDINGS,
        side_px=32,
        epochs=2,
        batch_size=8,
        workers=2,
    )
    assert train.run(config) == 0
    return config


def test_training_writes_a_model_that_predicts(trained: TrainConfig) -> None:
    ensemble = open_ensemble([trained.out])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    probs = Predictor(ensemble, "cpu").predict({ensemble.preparations[0]: pixels}).probs
    assert probs.shape == (1, 3, 2)
    assert np.isfinite(probs).all()


def test_the_card_tells_every_epoch_and_keeps_the_best(trained: TrainConfig) -> None:
    facts = open_model(trained.out, "classify").card.facts
    assert [epoch["epoch"] for epoch in facts["history"]] == [1, 2]
    scores = {epoch["epoch"]: epoch["score"] for epoch in facts["history"]}
    assert facts["best_epoch"] == max(scores, key=lambda epoch: scores[epoch])


def test_the_weights_are_those_of_the_best_epoch(trained: TrainConfig) -> None:
    """Judged again on the whole valid split, in one process, the model has the score that its workers reported."""
    from cxrpipe.archives.reader import Reader
    from cxrpipe.models.normalise import normalise
    from cxrpipe.records.study_table import StudyTable
    from cxrpipe.training.examples import ExampleSpec, examples

    model, table = open_model(trained.out, "classify"), StudyTable(trained.studies)
    spec = ExampleSpec(model.card.preparation, model.card.findings)
    with Reader(table.seek_points) as reader:
        found = [example for study in table.studies("valid") for example in examples(study, reader, spec)]
    pixels = torch.from_numpy(np.stack([example.pixels for example in found]))[:, None]
    with torch.inference_mode():
        probs = weights.load(model)(normalise(pixels, model.card)).sigmoid().numpy()
    judged = _aurocs(probs, np.stack([example.target for example in found]), model.card.findings)
    reported = model.card.facts["valid"]["per_finding"]
    assert reported == pytest.approx(judged, abs=1e-6, nan_ok=True)


def test_nothing_of_the_training_itself_stays_behind(trained: TrainConfig) -> None:
    beside = ["card.json", "confusion.png", "curves.png", "history.csv", "model.safetensors", "roc.png"]
    assert sorted(path.name for path in Path(trained.out).iterdir()) == beside


def test_eight_studies_of_the_valid_split_calibrate_nothing(trained: TrainConfig) -> None:
    card = open_model(trained.out, "classify").card
    assert card.calibration == {}
    assert card.thresholds == dict.fromkeys(FINDINGS, 0.5)
    assert set(card.facts["population"]["valid"]["view_positions"]) <= {"PA", "AP"}


def test_training_again_says_so_and_does_nothing(trained: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    card = Path(trained.out, "card.json")
    before = card.stat().st_mtime_ns
    assert train.run(trained) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert card.stat().st_mtime_ns == before


def test_a_segmenter_learns_from_masks_with_one_unreadable_image_left_out(ray_local: None, tmp_path: Path) -> None:
    table = lung_table(tmp_path, studies=24)
    broken = next(study for study in table.studies("train"))
    Path(broken.views[0].url).write_bytes(b"broken")
    config = TrainConfig(
        task="segment",
        studies=table.url,
        out=str(tmp_path / "lungs"),
        arch="unet-resnet18",
        side_px=32,
        epochs=1,
        batch_size=4,
    )
    assert train.run(config) == 0
    card = json.loads(Path(config.out, "card.json").read_text())
    assert card["task"] == "segment"
    assert 0 <= card["facts"]["valid"]["score"] <= 1
    assert Path(config.out, "panels.png").stat().st_size > 10_000


def train_examples(config: TrainConfig, table: StudyTable) -> tuple[ray.data.Dataset, list[Study]]:
    """What a training of this table would learn from, and the studies of its train and valid splits."""
    plan, studies = plan_training(config, table)
    with session.session(), listening(config.epochs) as events:
        return prepare_examples(plan, table, studies, events, 2)[0], studies


@pytest.fixture(scope="module")
def of_sorted_archive(
    ray_local: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ray.data.Dataset, list[Study]]:
    """The training examples of 400 images that are sorted by class, and the studies. The images are gone."""
    folder = tmp_path_factory.mktemp("sorted")
    for kind in ("NORMAL", "PNEUMONIA"):
        (folder / "archive" / kind).mkdir(parents=True)
        for number in range(200):
            (folder / "archive" / kind / f"{number}.png").write_bytes(png(radiograph(number, 32, 32)))
    index(str(folder / "archive"), str(folder / "table" / "studies.parquet"))
    table = StudyTable(str(folder / "table" / "studies.parquet"))
    config = TrainConfig(task="classify", studies=table.url, out="o", arch="resnet18", side_px=32)
    examples = train_examples(config, table)
    shutil.rmtree(folder / "archive")
    return examples


def test_images_are_decoded_once_however_often_they_are_seen(
    of_sorted_archive: tuple[ray.data.Dataset, list[Study]],
) -> None:
    train, studies = of_sorted_archive
    seen = [sum(len(batch["key"]) for batch in train.iter_batches()) for _ in range(2)]
    assert seen == [sum(study.split == "train" for study in studies)] * 2


def test_an_archive_sorted_by_class_is_not_learned_in_that_order(
    of_sorted_archive: tuple[ray.data.Dataset, list[Study]],
) -> None:
    train, _ = of_sorted_archive
    targets = np.concatenate([batch["target"] for batch in train.iter_batches()])
    assert 0.2 < targets[: len(targets) // 2].mean() < 0.8


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_example_of_the_valid_split_is_in_one_share(ray_local: None, workers: int) -> None:
    cut = shares(ray.data.range(7), workers)
    rows = [[row["id"] for row in share.iter_rows()] for share in cut]
    assert sorted(itertools.chain.from_iterable(rows)) == list(range(7))
    assert len(rows) == workers
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


class Greedy(TrainingPlan):
    """Its network does not fit into memory."""

    def network(self) -> torch.nn.Module:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_a_worker_that_lacks_memory_names_the_batch_and_is_not_started_again(
    ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = nih_table(tmp_path, studies=24)
    config = TrainConfig(task="classify", studies=table.url, out="o", arch="resnet18", side_px=32, findings=FINDINGS)
    plan, studies = plan_training(config, table)
    with (
        session.session(),
        pytest.raises(RunError, match="does not fit into the memory of the machine"),
    ):
        on_ray_train.train(Greedy(**vars(plan)), table, studies, str(tmp_path / "working"))
    assert "restart" not in capsys.readouterr().err


def test_phases_folds_sampling_crop_average_and_augmentation_go_together_on_two_workers(
    ray_local: None, lungs: ModelFolder, tmp_path: Path
) -> None:
    table = nih_table(tmp_path, studies=60)
    config = TrainConfig(
        task="classify",
        studies=table.url,
        out=str(tmp_path / "model"),
        arch="shufflenet_v2_x0_5",
        head="mlp-16",
        findings=FINDINGS[:1],
        side_px=32,
        epochs=3,
        batch_size=4,
        workers=2,
        folds=3,
        fold=1,
        fold_over="all",
        optim=OptimConfig(accumulate=2, clip=1.0, schedule="cosine", average=0.9),
        loss=LossConfig(balance="sampling", uncertain="multi-class", smoothing=0.05),
        crop=CropConfig(segmenter=lungs.url),
        augment=AugmentConfig(rotation_deg=5.0, shift_fraction=0.05),
        freeze=FreezeConfig(policy="progressive", epochs=(1, 1, 1)),
    )
    assert train.run(config) == 0
    model = open_model(config.out, "classify")
    assert (model.card.head, len(model.card.facts["history"])) == ("mlp-16", 3)
    assert model.card.crop == Crop(lungs.card.weights_sha256, 0.1)
    assert weights.load(model)(torch.zeros(2, 1, 32, 32)).shape == (2, 1)
    fold = StudyTable(str(Path(config.out, "fold", "studies.parquet")))
    population = model.card.facts["population"]
    held_out = len(list(fold.studies("test")))
    assert 15 < held_out < 25
    assert held_out + population["train"]["studies"] + population["valid"]["studies"] == 60
    assert train.run(config) == 0  # says so, and does nothing
    answers = pq.read_table(Path(config.out, "held_out.parquet"))
    assert set(answers["study_id"].to_pylist()) == {study.study_id for study in fold.studies("test")}
    assert model.card.facts["held_out"]["studies"] == held_out
    refit = replace(config, refit=(config.out,), out=str(tmp_path / "refit"))
    assert train.run(refit) == 0
    last = open_model(refit.out, "classify").card
    assert last.facts["population"]["train"]["studies"] == 60
    assert last.facts["epochs"] == len(last.facts["history"]) == model.card.facts["best_epoch"]
    assert "valid" not in last.facts
    assert sorted(path.name for path in Path(refit.out).iterdir()) == [
        *("card.json", "curves.png", "history.csv", "model.safetensors"),
    ]
