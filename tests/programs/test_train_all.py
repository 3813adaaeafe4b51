"""The program `train` over a folder of recipes; the trainings themselves are stood in for."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from builders import small_classifier

from cxrpipe.cli import parse
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.folder import open_model, save_model
from cxrpipe.programs import train
from cxrpipe.training.settings import settings_of


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the members whose training began; each then has a model folder."""
    began: list[str] = []

    def stand_in(config: TrainConfig) -> int:
        if not train.already_trained(config):
            began.append(Path(config.out).name)
            model = small_classifier(Path(config.out))
            facts = {
                "settings": settings_of(config),
                "best_epoch": 1,
                "history": [{}, {}],
                "valid": {"score": 0.875, "valid_loss": None},
            }
            save_model(config.out, model.card, model.read_weights(), facts)
        return 0

    monkeypatch.setattr(train, "_train", stand_in)
    monkeypatch.setattr(train, "session", lambda at_least_cpus: contextlib.nullcontext())
    return began


def settings(tmp_path: Path, words: Sequence[str] = ()) -> object:
    recipes = tmp_path / "recipes"
    recipes.mkdir(exist_ok=True)
    for name in ("wide", "deep"):
        (recipes / f"{name}.toml").write_text('task = "classify"\narch = "shufflenet_v2_x0_5"\nside_px = 32\n')
    return parse("train", ["--config", str(recipes), "--archive", "x", "--out", str(tmp_path / "models"), *words])


def test_every_member_is_trained_once_and_shown_in_a_table(trainings, tmp_path, capsys):
    assert train.run(settings(tmp_path)) == 0
    assert trainings == ["deep", "wide"]
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if line.lstrip().startswith(("deep", "wide"))] == [
        ["deep", "shufflenet_v2_x0_5", "32", "1", "2", "0.8750", "–"],
        ["wide", "shufflenet_v2_x0_5", "32", "1", "2", "0.8750", "–"],
    ]
    assert f"--models {tmp_path / 'models'}" in out
    assert train.run(settings(tmp_path)) == 0
    assert trainings == ["deep", "wide"]


def test_a_member_that_is_missing_is_trained_and_the_others_stay(trainings, tmp_path):
    members = settings(tmp_path)
    assert train.run(replace(members, members=members.members[:1])) == 0
    assert train.run(members) == 0
    assert trainings == ["deep", "wide"]


def test_a_folder_is_refused_before_any_training_where_one_member_is_another_model(trainings, tmp_path):
    train.run(settings(tmp_path, ["--seed", "1"]))
    trainings.clear()
    (tmp_path / "models" / "deep" / "card.json").unlink()
    with pytest.raises(ConfigError, match="wide: holds a model trained with other settings"):
        train.run(settings(tmp_path))
    assert not trainings


def test_an_architecture_that_no_library_has_is_refused_before_any_training(trainings, tmp_path):
    members = settings(tmp_path)
    wrong = replace(members.members[1], arch="resnet19")
    with pytest.raises(ConfigError, match="resnet19"):
        train.run(replace(members, members=(members.members[0], wrong)))
    assert not trainings


def test_the_members_can_be_scored_with_by_the_name_of_their_folder(trainings, tmp_path):
    from cxrpipe.models.folder import model_folders

    train.run(settings(tmp_path))
    assert [open_model(url, "classify").url for url in model_folders([str(tmp_path / "models")])] == [
        str(tmp_path / "models" / name) for name in ("deep", "wide")
    ]
