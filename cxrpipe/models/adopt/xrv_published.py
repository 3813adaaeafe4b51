"""What torchxrayvision publishes: names of models, their weights files, outputs and operating points."""

from typing import Any, NamedTuple

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.models.libraries import torchxrayvision

CACHE = "~/.torchxrayvision/models_data"
"""Where torchxrayvision keeps the files that it has downloaded."""
_PSPNET_URL = "https://github.com/mlmed/torchxrayvision/releases/download/v1/pspnet_chestxray_best_model_4.pth"
"""torchxrayvision has this URL in a function, where nobody can read it."""
_CITATION = (
    "Cohen JP, Viviano JD, Bertin P, et al. TorchXRayVision: A library of chest X-ray datasets and models. MIDL 2022, "
    "arXiv:2111.00595"
)
_PSPNET_CITATION = (
    "Lian J, Liu J, Zhang S, et al. A Structure-Aware Relation Network for Thoracic Diseases Detection and "
    f"Segmentation. IEEE TMI 2021, arXiv:2104.10326. {_CITATION}"
)
_LICENCE_NOTE = (
    "Apache-2.0 is the licence of torchxrayvision, whose releases hold the weights; the weights have no licence of "
    "their own, and the data sets that they learned from have terms"
)
_PSPNET_NOTE = (
    "torchxrayvision (Apache-2.0) publishes the weights; their authors, who trained on ChestX-Det, name no licence"
)


class Published(NamedTuple):
    """A weights file of torchxrayvision."""

    name: str
    url: str
    outputs: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    """Operating points of the outputs after a sigmoid; nan where an output has none."""

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def place(self) -> str:
        """Where the file lies on this machine. ConfigError where it does not: adopt fetches nothing."""
        place = storage.normalise(storage.join(CACHE, self.file))
        if storage.stat(place) is None:
            raise ConfigError(
                f"xrv:{self.name}: its weights are not on this machine; fetch {self.url} into {CACHE}/, or into any "
                f"folder, and name the file: xrv:FOLDER/{self.file}"
            )
        return place

    @property
    def rights(self) -> dict[str, Any]:
        """Licence and citation, for the facts of a card."""
        if self.url == _PSPNET_URL:
            return {"licence": None, "licence_note": _PSPNET_NOTE, "citation": _PSPNET_CITATION, "url": self.url}
        return {"licence": "Apache-2.0", "licence_note": _LICENCE_NOTE, "citation": _CITATION, "url": self.url}


def published() -> tuple[Published, ...]:
    """All models of torchxrayvision that can be adopted."""
    named = torchxrayvision().models.model_urls.items()
    return (
        *(
            Published(name, it["weights_url"], tuple(it["labels"]), tuple(map(float, it["op_threshs"])))
            for name, it in named
        ),
        Published("PSPNet", _PSPNET_URL),
    )


def find(name: str) -> Published | None:
    """The model of this name, or whose weights file has this name."""
    models = published()
    return next((model for model in models if name in (model.name, model.file)), None)
