"""Names of findings: one spelling for the labels of archives and the outputs of models."""

import re

NOTHING_FOUND = {"no_finding", "normal", "healthy", "negative", "none"}
"""Spellings of "no finding", which is never a finding itself."""
_NO_OUTPUT = NOTHING_FOUND | {"", "background", "other", "others"}
"""Outputs of models that name no finding, in lower case. An adopted model drops them."""
_OTHER_WORDS = {
    "effusion": "Pleural_Effusion",  # NIH, torchxrayvision
    "opacity": "Lung_Opacity",
    "airspace_opacity": "Lung_Opacity",  # the first CheXpert labeler
    "oedema": "Edema",
}
"""What others write, in lower case → the finding, as the layouts of NIH, CheXpert, MIMIC-CXR and PadChest spell it."""


def finding(text: str) -> str:
    """Spell a finding as a name: `Pleural Effusion` → `Pleural_Effusion`, `PNEUMONIA` → `Pneumonia`. Others stay."""
    name = re.sub(r"\W+", "_", text.strip()).strip("_")
    return name.title() if name.isupper() and len(name) > 3 else name


def of_output(output: str) -> str:
    """The finding that an output of a model names, its words capitalised; empty where it names none.

    `Effusion` → `Pleural_Effusion`, `Lung Opacity` → `Lung_Opacity`, `pneumonia` → `Pneumonia`, `NORMAL` → ``.
    """
    name = finding(output)
    if name.lower() in _NO_OUTPUT:
        return ""
    words = [word.title() if word.islower() else word for word in name.split("_")]
    return _OTHER_WORDS.get(name.lower(), "_".join(words))
