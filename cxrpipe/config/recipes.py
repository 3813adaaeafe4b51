"""A folder of recipes: the settings of `train` for every member of an ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxrpipe.config import arguments
from cxrpipe.config.train import TrainConfig
from cxrpipe.errors import ConfigError


@dataclass(frozen=True)
class RecipeFolder:
    """One training for every TOML file of a folder, in the order of their names.

    --refit names the folders of all members for every fold: member NAME takes NAME in each of them.
    """

    out: str
    """Folder of the model folders, each named as its recipe."""
    members: tuple[TrainConfig, ...]


def recipe_folder(program: str, argv: Sequence[str]) -> RecipeFolder | None:
    """The settings of all members where --config names a folder; None where it names files alone.

    Flags, and other files of --config, hold for every member.
    """
    general, words = arguments.general_flags(argv)
    folders = [path for path in general.config if Path(path).is_dir()]
    if not folders or general.help:
        return None
    if len(folders) > 1 or general.print_config:
        reason = "two folders" if len(folders) > 1 else "a folder, and --print-config prints one file"
        raise ConfigError(f"--config {' --config '.join(folders)}: {reason}; name one file or one folder of recipes")
    recipes = sorted(Path(folders[0]).glob("*.toml"))
    if not recipes:
        raise ConfigError(f"--config {folders[0]}: a folder without recipes; expected files *.toml")
    members = []
    for recipe in recipes:
        files = [f"--config={recipe if path == folders[0] else path}" for path in general.config]
        members.append((recipe.stem, arguments.parse(program, TrainConfig, [*files, *words])))
    if len({config.out for _, config in members}) > 1:
        raise ConfigError(f"--config {folders[0]}: the recipes name different folders as out; name one with --out")
    out = members[0][1].out
    return RecipeFolder(out, tuple(_member(config, name) for name, config in members))


def _member(config: TrainConfig, name: str) -> TrainConfig:
    """The settings of one member: its own model folders below those that the settings name."""
    refit = tuple(f"{url.rstrip('/')}/{name}" for url in config.refit)
    return replace(config, out=f"{config.out.rstrip('/')}/{name}", refit=refit)
