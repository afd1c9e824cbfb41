"""InsPLAD-seg: three assets of InsPLAD-fault with the defects marked in pixels.

Vieira e Silva et al., "Attention Modules Improve Efficient Anomaly Localization for Industrial Inspection in
the Wild", 2024, who call it preliminary; the counts are those of its table 1. The layout inside the archive
could not be checked here: MVTec AD's is expected.
"""

from __future__ import annotations

from functools import partial

from attnad.datasets.base import Source
from attnad.datasets.folder import load_published

COUNTS = {
    "glass_insulator": (1104, 591, 88),
    "lightning_rod_suspension": (462, 117, 46),
    "vari_grip": (477, 114, 40),
}

DRIVE = "111XhVdn5z2f84jIQkNQ4FAiX2wbu0Xmw"

SOURCE = Source(
    name="insplad_seg",
    title="InsPLAD-seg: three power line assets in the wild, with masks",
    kind="real",
    licence="see the paper's repository",
    size="unknown",
    url=f"https://drive.google.com/file/d/{DRIVE}",
    how="python -m attnad data get insplad_seg (needs: pip install gdown), or download "
    f"https://drive.google.com/file/d/{DRIVE} yourself and add --archive FILE",
    categories=tuple(COUNTS),
    counts=COUNTS,
    fetch=("drive", DRIVE),
)

load = partial(load_published, SOURCE)
