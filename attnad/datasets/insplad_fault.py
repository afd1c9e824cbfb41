"""InsPLAD-fault: five assets of real power lines, photographed from a drone; no masks.

Vieira e Silva et al., "InsPLAD: A Dataset and Benchmark for Power Line Asset Inspection in UAV Images", 2023;
the counts are those of table 1 of the AttentDifferNet paper. The archive is
``unsupervised_anomaly_detection.zip``. Its inner layout could not be checked here: a folder for each
category, laid out like MVTec AD, is expected, and names are compared without case, dashes and underscores.
"""

from __future__ import annotations

from functools import partial

from attnad.datasets.base import Source
from attnad.datasets.folder import load_published

COUNTS = {
    "glass_insulator": (2298, 581, 90),
    "lightning_rod_suspension": (462, 117, 50),
    "polymer_insulator_upper_shackle": (935, 235, 102),
    "vari_grip": (477, 114, 63 + 48),  # bird nests, corrosion
    "yoke_suspension": (4834, 1207, 49),
}

SOURCE = Source(
    name="insplad_fault",
    title="InsPLAD-fault: five power line assets in the wild",
    kind="real",
    licence="see its repository",
    size="several GB",
    url="https://github.com/andreluizbvs/InsPLAD",
    how="download InsPLAD-fault/unsupervised_anomaly_detection.zip from the Google Drive folder that "
    "https://github.com/andreluizbvs/InsPLAD links to, and unpack it with: "
    "python -m attnad data get insplad_fault --archive FILE",
    categories=tuple(COUNTS),
    masks=False,
    counts=COUNTS,
)

load = partial(load_published, SOURCE)
