"""Decides whether Body Part Examined (0018,0015) names the chest, another part, or nothing that can be relied on.

Devices fill the element from a menu, in the words of PS3.16 annex L or of their language, sometimes with letters lost
to a wrong character set. Only a word for another part rejects an image. An image with an unknown word is scored and
flagged, for a lost chest is worse than a flag. T-SPINE, THORACIC SPINE and CLAVICLE are other examinations.
"""

import re
import unicodedata
from typing import Literal

Verdict = Literal["chest", "other", "unclear"]

_SAYS_NOTHING = ("", "DEFAULT", "UNKNOWN", "UNDEFINED", "UNSPECIFIED", "OTHER", "NONE", "NA", "GENERAL", "ANY")
_CHEST = re.compile(
    r"CHEST|LUNG|PULM|\bT.{1,3}RAX|TORAKS|TORACE\b"  # T?RAX, TÃ“RAX: a letter lost to a character set
    r"|\bCXR|\bRIBS?\b|\bRIBCAGE|COSTILLA|COSTELA|COSTAL|COTES?\b|RIPPEN|\bHEART|CARDIAC|CORAZON|\bHERZ|CUORE"
    r"|PECHO|PEITO|PETTO|POITRINE|BRUST|BORST|BRYST|BROST|KLATK|PIERSIOW|MEDIASTIN|胸|ГРУД|ОГК|ΘΩΡΑΚ"
)
_OF_THE_CHEST = re.compile(r"THORA|TORA[CK]|THX\b")
"""Words for the thorax that may also describe a spine; they count after the words for other parts."""
_OTHER = re.compile(
    r"SPINE|LUMB|CERVI|SACR|COCCY|VERTEB|\b[CTLS]+SP\b|COLUMN|COLUNA|COLONNA|RACHIS|WIRBEL|\b[BHL]WS\b"
    r"|ABDOM|\bABD\b|\bBAUCH|\bKUB\b|PELV|BECKEN|BASSIN|BACINO|CADERA|\bHIPS?\b|HUFT|HANCHE|QUADRIL"
    r"|STOMACH|COLON\b|BLADDER|KIDNEY"
    r"|SKULL|\bHEAD|CRANE|CRANI|SCHADEL|\bFACE|FACIAL|SINUS|\bORBIT|\bJAW|MANDIB|MAXILL|\bNECK|\bTMJ|DENTAL|TEETH|NASAL"
    r"|EXTREM|\bEXM\b|LIMB|MIEMBR|MEMBRE|GLIEDMA|\bHANDS?\b|\bMANO|\bMAOS?\b|\bMAINS?\b|FINGER|THUMB"
    r"|WRIST|MUNECA|POIGNET|PUNHO|POLSO|CARPA"
    r"|ARMS?\b|ELBOW|CODO|COUDE|COTOVELO|GOMITO|ELLENBOGEN|HUMER|RADIUS|ULNA|SHOULDER|HOMBRO|EPAULE|OMBRO|SPALLA"
    r"|SCHULTER|CLAVIC|SCAPUL"
    r"|\bLEGS?\b|FEMUR|THIGH|KNEE|RODILLA|GENOU|JOELHO|GINOCCHIO|\bKNIE|PATELL|TIBIA|FIBUL|CALF|ANKLE|TOBILLO|CHEVILLE"
    r"|TORNOZELO|CAVIGLIA|KNOCHEL|SPRUNG|FOOT|FEET|\bPIES?\b|PIEDS?\b|\bFU[SẞS]+\b|CALCANE|\bHEEL|\bTOES?\b"
    r"|BREAST|MAMMA|BRAIN|\bUTER|PROSTAT"
)


def verdict(text: str | None) -> Verdict:
    """The meaning of a body part; accents and case do not matter. An empty or missing text is `chest`."""
    letters = unicodedata.normalize("NFKD", text or "").upper()
    words = " ".join(
        "".join(letter for letter in letters if not unicodedata.combining(letter)).replace("_", " ").split()
    )
    if words in _SAYS_NOTHING or _CHEST.search(words):
        return "chest"
    if _OTHER.search(words):
        return "other"
    return "chest" if _OF_THE_CHEST.search(words) else "unclear"
