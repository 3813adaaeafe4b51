"""An archive that grows from day to day, for `soak.py`."""

import hashlib
import random
from dataclasses import dataclass, field

from builders import jpeg, radiograph, tar, tar_gz

from cxrpipe import storage

COME = (20, 60)
"""Studies of a day, at least and at most."""


@dataclass
class Archive:
    """Studies that keep coming, named as CheXpert's are: as objects, in tar and in tar.gz files."""

    url: str
    chance: random.Random
    images: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Study → the path of each of its views → JPEG."""
    packed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Name of a container → path of an entry → JPEG."""
    ever: dict[str, set[str]] = field(default_factory=dict)
    """Study → the sha256 of every image that it has had."""

    def grow(self) -> None:
        """A day: studies come, and something changes, or nothing."""
        came = dict(self._new_image() for _ in range(self.chance.randint(*COME)))
        container = self.chance.choice(("", f"{len(self.images):06}.tar", f"{len(self.images):06}.tar.gz"))
        if container:
            self._pack(container, came)
        else:
            self._put(came)
        change = self.chance.choice((self._add_views, self._replace_images, self.pack_again, None))
        if change:
            change()

    def sha256(self) -> dict[str, list[str]]:
        """Study → the sha256 of its images, sorted."""
        return {study: sorted(map(_sha256, views.values())) for study, views in self.images.items()}

    def _new_image(self) -> tuple[str, bytes]:
        """The path and the JPEG of a new study."""
        study = f"patient{len(self.images):06}/study1"
        path = f"train/{study}/view1_frontal.jpg"
        return path, self._draw(study, path)

    def _draw(self, study: str, path: str) -> bytes:
        image = jpeg(radiograph(self.chance.getrandbits(32), rows=64, columns=64))
        self.images.setdefault(study, {})[path] = image
        self.ever.setdefault(study, set()).add(_sha256(image))
        return image

    def _put(self, images: dict[str, bytes]) -> None:
        for path, image in images.items():
            storage.write(f"{self.url}/{path}", image)

    def _pack(self, name: str, entries: dict[str, bytes]) -> None:
        self.packed[name] = entries
        storage.write(f"{self.url}/{name}", (tar_gz if name.endswith("gz") else tar)(entries))

    def _add_views(self) -> None:
        """Of studies that may be packed, as objects."""
        for study in self.chance.sample(sorted(self.images), 3):
            path = f"train/{study}/view{len(self.images[study]) + 1}_lateral.jpg"
            self._put({path: self._draw(study, path)})

    def _replace_images(self) -> None:
        """Of objects: an entry that is replaced by one of the same size and time looks the same to an index."""
        in_containers = {path for entries in self.packed.values() for path in entries}
        loose = [(study, path) for study, views in self.images.items() for path in views if path not in in_containers]
        for study, path in self.chance.sample(loose, min(3, len(loose))):
            self._put({path: self._draw(study, path)})

    def pack_again(self) -> None:
        """A container is made anew with one study more before the others, whose bytes then lie elsewhere."""
        if self.packed:
            name = self.chance.choice(sorted(self.packed))
            self._pack(name, dict([self._new_image()]) | self.packed[name])


def _sha256(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()
