"""Broken folders end in a `DataError` or a correct load: nothing from inside Pillow or numpy, and no hang.

``ATTNAD_FUZZ=10000 pytest tests/test_folder_fuzz.py`` tries ten thousand.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from attnad import datasets  # noqa: E402

EXAMPLES = int(os.environ.get("ATTNAD_FUZZ", "60"))
SIZE = 16

FOLDERS = [
    "", "good", "bad", "Good", "ok", "train", "train/good", "test", "test/good", "test/bad", "test/bad/masks",
    "ground_truth", "ground_truth/bad", "masks", "masks/bad", "deep/er/good", ".hidden", "good/good", "a b/ü",
]  # fmt: skip
NAMES = ["a", "b", "a_mask", "b_mask", "a-mask", "c_gt", "ü ñ", "x.y", "_mask", "A", ".h", "0", "table"]
ENDINGS = [".png", ".PNG", ".jpg", ".tif", ".bmp", ".gif", ".webp", ".txt", "", ".csv"]
FORMATS = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "TIFF": ["1", "L", "RGB", "RGBA", "I;16", "F", "I", "CMYK"],
    "BMP": ["1", "L", "RGB"],
    "GIF": ["L", "P"],
    "WEBP": ["RGB", "RGBA"],
}


def picture_bytes(rng: np.random.Generator) -> bytes:
    """A small picture of any format, mode and shape."""
    form = str(rng.choice(list(FORMATS)))
    mode = str(rng.choice(FORMATS[form]))
    width, height = (int(v) for v in rng.choice([1, 2, 7, 16, 40], 2))
    grey = rng.integers(0, 256, (height, width), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode in ("F", "I"):
        scaled = grey.astype(np.int64) * rng.choice([1, 1000, -1])
        image = Image.fromarray(scaled.astype(np.float32 if mode == "F" else np.int32))
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def content(kind: str, seed: int) -> bytes:
    """What a file holds."""
    rng = np.random.default_rng(seed)
    if kind == "empty":
        return b""
    if kind == "noise":
        return rng.bytes(int(rng.integers(1, 400)))
    if kind == "table":
        cells = [
            "path",
            "label",
            "split",
            "good",
            "bad",
            "a.png",
            "good/a.png",
            "train",
            "1",
            "0",
            '"',
            "\0",
            "ü",
        ]
        rows = [",".join(rng.choice(cells, rng.integers(1, 5))) for _ in range(rng.integers(0, 5))]
        return ("path,label,split,mask\n" * int(rng.integers(0, 2)) + "\n".join(rows)).encode()
    data = bytearray(picture_bytes(rng))
    if kind == "truncated":
        return bytes(data[: int(rng.integers(1, len(data)))])
    if kind == "flipped":
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(0, 256)
    return bytes(data)


files = st.lists(
    st.tuples(
        st.sampled_from(FOLDERS),
        st.sampled_from(NAMES),
        st.sampled_from(ENDINGS),
        st.sampled_from([*["picture"] * 3, "truncated", "flipped", "empty", "noise", "table",
                         "folder", "link"]),
        st.integers(0, 2**32 - 1),
    ),
    max_size=8,
)  # fmt: skip


def build(root: Path, plan) -> None:
    for folder, name, ending, kind, seed in plan:
        path = root / folder / (name + ending)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                path.mkdir(exist_ok=True)
            elif kind == "link":
                path.symlink_to(path if seed % 2 else root)  # to itself, or to the top: loops
            else:
                path.write_bytes(content(kind, seed))
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            pass
        except OSError as error:  # a loop of links in the way
            assert error.errno == 40


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(plan=files, table=st.booleans(), split=st.sampled_from(["train", "test"]))
def test_any_folder_loads_or_says_why_not(plan, table, split):
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        build(root, plan)
        home = root / "table.csv" if table else root
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                pictures = datasets.load("folder", split=split, root=home, size=SIZE)
            except datasets.DataError as error:
                assert str(root) in str(error)
            else:
                assert len(pictures) > 0
                for i in range(len(pictures)):
                    check_sample(pictures, i, root)
            try:
                assert str(datasets.check(home))
            except datasets.DataError as error:
                assert str(root) in str(error)
    finally:
        shutil.rmtree(root)


def check_sample(pictures, index: int, root: Path) -> None:
    try:
        sample = pictures[index]
    except datasets.DataError as error:
        assert str(root) in str(error)
        return
    assert sample.image.shape == (3, SIZE, SIZE) and sample.image.dtype == np.float32
    assert np.isfinite(sample.image).all() and sample.image.min() >= 0 and sample.image.max() <= 1
    assert sample.label == int(sample.defect != "good")
    if sample.mask is not None:
        assert sample.mask.shape == (1, SIZE, SIZE) and sample.mask.dtype == bool
