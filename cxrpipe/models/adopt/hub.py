"""Adopts models of Hugging Face: a hub name, or a folder with config.json and model.safetensors.

config.json is timm's (`architecture`) or transformers' (`model_type`). A hub name is OWNER/NAME.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from cxrpipe import storage
from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt import hub_files, states, transformers
from cxrpipe.models.adopt.adopted import Adopted
from cxrpipe.models.adopt.hub_files import CONFIG, PREPROCESSOR, README, WEIGHTS
from cxrpipe.models.adopt.timm import Source, from_config, spdx, taken_in
from cxrpipe.models.timm_networks import TimmName, parse

_LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


def adopt(name: str, config: AdoptConfig) -> Adopted:
    """A classifier, or a bare backbone, that timm or transformers has saved."""
    where = _folder(name) if config.source == name else _hub(name)
    content = _json(where, CONFIG)
    state = states.read(where(WEIGHTS))
    facts = {"source": config.source, "licence": _licence(where)}
    try:
        source = _source(content, where, state, facts)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"{config.source}: its {CONFIG} or {PREPROCESSOR} lacks or garbles {error}") from None
    return taken_in(source, config)


def _source(content: dict[str, Any], where: Callable[[str], str], state: states.State, facts: dict[str, Any]) -> Source:
    if "architecture" in content:
        return _of_timm(content, state, facts)
    if "model_type" in content:
        return transformers.source(content, _json(where, PREPROCESSOR, needed=False), state, facts)
    raise ConfigError(f"{facts['source']}: its {CONFIG} has neither architecture (timm) nor model_type (transformers)")


def _of_timm(content: dict[str, Any], state: states.State, facts: dict[str, Any]) -> Source:
    """What timm's config.json says."""
    published = content.get("pretrained_cfg") or content
    if missing := [key for key in ("input_size", "mean", "std") if key not in published]:
        raise ConfigError(f"{facts['source']}: no {', '.join(missing)} in the pretrained_cfg of its {CONFIG}")
    arguments = {key: value for key, value in (content.get("model_args") or {}).items() if key != "img_size"}
    architecture = str(parse(str(TimmName(content["architecture"].partition(".")[0], arguments))))
    names = content.get("label_names") or published.get("label_names") or ()
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    preparation, assumed = from_config(published, names)
    licence = facts["licence"] or spdx(published.get("license"))
    return Source(architecture, state, tuple(names), preparation, assumed, facts | {"licence": licence})


def _folder(name: str) -> Callable[[str], str]:
    """Where the files of a folder lie. A name that is no folder, and looks like one of the hub, is one of the hub."""
    url = storage.normalise(name)
    if storage.stat(storage.join(url, CONFIG)):
        return lambda file: storage.join(url, file)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and storage.stat(url) is None:
        return _hub(name)
    raise ConfigError(f"{name}: no {CONFIG} there; expected a folder of Hugging Face, or a name of its hub: OWNER/NAME")


def _hub(name: str) -> Callable[[str], str]:
    instead = f"put it into a folder with {CONFIG} and {WEIGHTS}, and adopt the folder"
    return lambda file: hub_files.local(name, file, instead)


def _json(where: Callable[[str], str], file: str, *, needed: bool = True) -> dict[str, Any]:
    """The content of a JSON file; {} where it is not there and not needed."""
    data = _optional(where, file) if not needed else storage.read(storage.normalise(where(file)))
    try:
        content = json.loads(data) if data else {}
    except ValueError as error:
        raise ConfigError(f"{where(file)}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where(file)}: a {type(content).__name__}; expected an object")
    return content


def _optional(where: Callable[[str], str], file: str) -> bytes:
    try:
        return storage.read(storage.normalise(where(file)))
    except (ConfigError, FileNotFoundError):
        return b""


def _licence(where: Callable[[str], str]) -> str | None:
    """The licence in the front matter of a model's README.md."""
    front = _optional(where, README).decode(errors="replace").partition("\n---")[0]
    licence = _LICENCE.search(front) if front.startswith("---") else None
    return spdx(licence[1]) if licence else None
