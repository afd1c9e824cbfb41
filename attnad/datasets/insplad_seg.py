"""InsPLAD-seg: three assets of InsPLAD-fault with the defects marked in pixels.

Vieira e Silva et al., "Attention Modules Improve Efficient Anomaly Localization for Industrial Inspection in
the Wild", 2024, who call it preliminary; the counts are those of its table 1. The layout inside the archive
could not be checked here: MVTec AD's is expected.
"""

from __future__ import annotations

from pathlib import Path

from attnad.datasets.base import Dataset, Source, warn_counts
from attnad.datasets.download import find_category, find_root
from attnad.datasets.folder import mvtec_records

COUNTS = {
    "glass_insulator": (1104, 591, 88),
    "lightning_rod_suspension": (462, 117, 46),
    "vari_grip": (477, 114, 40),
}

SOURCE = Source(
    name="insplad_seg",
    title="InsPLAD-seg: three power line assets in the wild, with masks",
    kind="real",
    licence="see the paper's repository",
    size="unknown",
    url="https://drive.google.com/file/d/111XhVdn5z2f84jIQkNQ4FAiX2wbu0Xmw",
    how="python -m attnad data get insplad_seg (needs: pip install gdown), or download "
    "https://drive.google.com/file/d/111XhVdn5z2f84jIQkNQ4FAiX2wbu0Xmw yourself and add --archive FILE",
    categories=tuple(COUNTS),
    counts=COUNTS,
    fetch=("drive", "111XhVdn5z2f84jIQkNQ4FAiX2wbu0Xmw"),
)


def load(category: str, split: str, size: int, seed: int, root: str | Path | None = None) -> Dataset:
    """One asset; the split is the authors', so ``seed`` changes nothing.

    Raises:
        MissingDataError: the data are not there.
    """
    home = find_category(find_root(SOURCE, root), category, SOURCE)
    records = mvtec_records(home, split)
    warn_counts(SOURCE, category, split, records)
    return Dataset("insplad_seg", category, split, records, size)
