"""Draws the picture of the landing page: nine generated insulator strings, one of them broken.

python tools/cover.py      writes book/_static/cover.webp
"""

from __future__ import annotations

import numpy as np
from chapters import BOOK
from PIL import Image

from attnad import datasets

SIDE, GAP, BROKEN = 220, 8, 5


def main() -> None:
    test = datasets.load("powerline", category="glass_insulator", split="test", size=2 * SIDE, seed=3)
    normal, broken = np.flatnonzero(test.labels == 0)[:9], np.flatnonzero(test.labels == 1)[0]
    normal[BROKEN] = broken
    sheet = Image.new("RGB", (3 * SIDE + 2 * GAP, 3 * SIDE + 2 * GAP), "white")
    for n, i in enumerate(normal):
        picture = (test[int(i)].image.transpose(1, 2, 0) * 255).round().astype(np.uint8)
        place = (n % 3 * (SIDE + GAP), n // 3 * (SIDE + GAP))
        sheet.paste(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS), place)
    sheet.save(BOOK / "_static" / "cover.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
