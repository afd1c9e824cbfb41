"""Loaders on tiny trees in the published layouts, the contract of `Sample`, bad input, and unsafe
archives."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnad import datasets
from attnad.datasets import elpv, mvtec_ad
from attnad.datasets.download import extract, find_root, plain
from attnad.datasets.images import open_picture, read_image, read_mask, to_rgb

SIZE = 32


def put(
    path: Path, value: int = 90, mode: str = "RGB", size: tuple[int, int] = (40, 30), spot: bool = False
) -> Path:
    """A picture with one value everywhere, or black with a white spot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if spot:
        pixels = np.zeros(size[::-1], np.uint8)
        pixels[5:12, 8:20] = 255
        Image.fromarray(pixels).save(path)
    else:
        Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)
    return path


def mvtec_tree(home: Path, defect: str = "cut", masks: bool = True) -> Path:
    for i in range(3):
        put(home / "train" / "good" / f"{i}.png", 10 + i)
    put(home / "test" / "good" / "0.png", 50)
    put(home / "test" / defect / "0.png", 60)
    if masks:
        put(home / "ground_truth" / defect / "0_mask.png", spot=True)
    return home


def sample_is_right(sample) -> None:
    assert sample.image.shape == (3, SIZE, SIZE) and sample.image.dtype == np.float32
    assert sample.image.min() >= 0 and sample.image.max() <= 1
    assert sample.label == int(sample.defect != "good")
    for mask in (sample.mask, sample.object_mask):
        assert mask is None or (mask.shape == (1, SIZE, SIZE) and mask.dtype == bool)


# --- every source gives the same Sample ---


@pytest.mark.parametrize(
    "name, category", [("mvtec_ad", "screw"), ("insplad_fault", "vari_grip"), ("insplad_seg", "vari_grip")]
)
def test_mvtec_layouts(tmp_path, name, category):
    mvtec_tree(tmp_path / "unpacked" / category.replace("_", "-").title())
    with pytest.warns(
        UserWarning, match=f"{name}, {category}, train: 3 normal pictures on disk, .* published"
    ):
        train = datasets.load(name, category, "train", size=SIZE, root=tmp_path)
    with pytest.warns(UserWarning, match="published"):
        test = datasets.load(name, category, "test", size=SIZE, root=tmp_path)
    assert train.labels.tolist() == [0, 0, 0] and test.defects == ["good", "cut"]
    for sample in [*train, *test]:
        sample_is_right(sample)
    assert test[1].mask.any() and test[0].mask is None


def test_right_counts_do_not_warn(tmp_path, monkeypatch):
    mvtec_tree(tmp_path / "screw")
    monkeypatch.setitem(mvtec_ad.COUNTS, "screw", (3, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datasets.load("mvtec_ad", "screw", "train", root=tmp_path)
        datasets.load("mvtec_ad", "screw", "test", root=tmp_path)


def test_mvtec_sums():
    """The published totals: 3,629 to train on, 467 good and 1,258 anomalous to test."""
    assert tuple(map(sum, zip(*mvtec_ad.COUNTS.values()))) == (3629, 467, 1258)


@pytest.mark.parametrize("name", ["insplad_fault", "insplad_seg"])
def test_counts_are_those_of_the_papers(name):
    from attnad.results import paper_table

    table = paper_table(f"{name}_counts")
    for category, counts in datasets.SOURCES[name].counts.items():
        rows = table[table.category.map(plain) == plain(category)]
        good = rows[rows.kind == "flawless"].set_index("split").images
        assert counts == (good["train"], good["test"], rows[rows.kind != "flawless"].images.sum())


def test_magnetic_tile_tiny(tmp_path):
    for i in range(10):
        put(tmp_path / "MT_Free" / "Imgs" / f"{i}.jpg", 100, "L")
        put(tmp_path / "MT_Free" / "Imgs" / f"{i}.png", 0, "L")
    put(tmp_path / "MT_Crack" / "Imgs" / "c.jpg", 100, "L")
    put(tmp_path / "MT_Crack" / "Imgs" / "c.png", spot=True)
    with pytest.warns(UserWarning, match="8 normal pictures on disk, 762 published"):
        train = datasets.load("magnetic_tile", split="train", size=SIZE, root=tmp_path)
    with pytest.warns(UserWarning):
        test = datasets.load("magnetic_tile", split="test", size=SIZE, root=tmp_path)
    assert len(train) == 8 and test.defects == ["good", "good", "crack"] and test[2].mask.any()
    assert not {r.path for r in train.records} & {r.path for r in test.records}


def test_magnetic_tile_real():
    try:
        root = find_root(datasets.SOURCES["magnetic_tile"])
    except datasets.MissingDataError:
        root = Path(__file__).parents[2] / "shared" / "datasets" / "magnetic-tile"
    if not root.is_dir():
        pytest.skip("Magnetic Tile is not on this machine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test = datasets.load("magnetic_tile", split="test", size=SIZE, root=root)
        assert len(datasets.load("magnetic_tile", split="train", root=root)) == 762
    assert (test.labels == 0).sum() == 190 and len(test) == 190 + 392
    for sample in test[::40]:
        sample_is_right(sample)
        assert (sample.mask is not None and sample.mask.any()) == bool(sample.label)


def voc(path: Path, *boxes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"<object><name>x</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    path.write_text(f"<annotation>{objects}</annotation>")


def test_cplid(tmp_path):
    for i in range(5):
        put(tmp_path / "Normal_Insulators" / "images" / f"{i}.jpg", 80, size=(100, 80))
        voc(tmp_path / "Normal_Insulators" / "labels" / f"{i}.xml", (0, 0, 50, 80), (50, 0, 100, 80))
    bad = tmp_path / "Defective_Insulators"
    put(bad / "images" / "9.jpg", 80, size=(100, 80))
    voc(bad / "labels" / "insulator" / "9.xml", (10, 10, 60, 60), (60, 0, 100, 80))
    voc(bad / "labels" / "defect" / "9.xml", (10, 10, 35, 35))
    train = datasets.load("cplid", split="train", size=SIZE, root=tmp_path)
    test = datasets.load("cplid", split="test", size=SIZE, root=tmp_path)
    assert len(train) == 8 and test.labels.tolist() == [0, 0, 1]
    assert not {r.path for r in train.records} & {r.path for r in test.records}
    mask = test[2].mask[0]
    assert mask[:16, :16].all() and mask.mean() == 0.25
    (bad / "labels" / "defect" / "9.xml").write_text("<annot")
    with pytest.raises(datasets.DataError, match=r"9\.xml: not a VOC label"):
        datasets.load("cplid", split="test", root=tmp_path)


def test_elpv():
    pytest.importorskip("elpv_dataset")
    total = 0
    for category in elpv.SOURCE.categories:
        parts = {split: datasets.load("elpv", category, split, size=SIZE) for split in elpv.SOURCE.splits}
        paths = [r.path for part in parts.values() for r in part.records]
        assert len(paths) == len(set(paths))
        total += len(paths)
        good = len(parts["train"]) + int((parts["test"].labels == 0).sum())
        assert len(parts["train"]) == round(0.7 * good)
        assert set(parts["uncertain"].defects) == {"uncertain_33", "uncertain_67"}
        sample_is_right(parts["test"][0])
        other = datasets.load("elpv", category, "train", seed=1)
        assert {r.path for r in other.records} != {r.path for r in parts["train"].records}
    assert total == 2624 and "CC BY-NC-SA 4.0" in elpv.LICENCE


def test_elpv_by_module(tmp_path):
    pytest.importorskip("elpv_dataset")
    module = elpv.modules()
    kinds = {file.name: kind for file, _, kind in elpv.table()}
    for category, published in (("mono", 18), ("poly", 26)):  # types that share no module
        assert len({module[name] for name, kind in kinds.items() if kind == category}) == published
        tested, apart = [], datasets.load("elpv", category, "test")
        share = apart.labels.sum() / (len(apart) + len(datasets.load("elpv", category, "train")))
        for fold in range(elpv.FOLDS):
            train, test, between = (datasets.load("elpv", category, s, fold=fold) for s in elpv.SOURCE.splits)
            learned, asked, unsure = (
                {module[Path(r.path).name] for r in part.records} for part in (train, test, between)
            )
            assert (
                not learned & asked
                and unsure
                and unsure <= asked
                and not train.labels.any()
                and abs(test.labels.mean() - share) < 0.06
            )
            tested += [r.path for r in test.records]
        assert len(tested) == len(set(tested))  # each cell that the experts were sure of, once
        assert len(tested) == len(apart) + len(datasets.load("elpv", category, "train"))
        drawn = [datasets.load("elpv", category, "test", fold=0, seed=s).records[0].path for s in range(4)]
        assert len(set(drawn)) > 1
    with pytest.raises(datasets.DataError, match="no fold 3; it has: 0, 1, 2"):
        datasets.load("elpv", fold=3)

    first = {number: name for name, number in reversed(module.items())}
    # Where the type changes, and where brightness jumps within a run of one type.
    assert [first[m][-8:-4] for m in (1, 15, 16, 21, 22, 27, 28, 37, 40, 41)] == [
        "0061", "0901", "0961", "1255", "1315", "1615", "1675", "2217", "2397", "2445",
    ]  # fmt: skip
    (tmp_path / "labels.csv").write_text("images/1.png 0.0 mono")
    with pytest.raises(datasets.DataError, match="lists 1 cells; modules are known for 2624"):
        elpv.modules(tmp_path)


def test_dataset_slices_and_pickles():
    test = datasets.load("powerline", split="test", size=SIZE, test_count=3)
    assert len(test[:2]) == 2 and len(test[test.labels == 1]) == 3 and test[[5, 0]].labels.tolist() == [1, 0]
    again = pickle.loads(pickle.dumps(test))  # our own bytes: worker processes need this
    assert (again[4].image == test[4].image).all()


# --- one's own pictures ---


def test_good_beside_others(tmp_path):
    for i in range(10):
        put(tmp_path / "good" / f"{i}.jpg", i)
    for i, name in enumerate(("0.png", "1.png", "2.png")):
        put(tmp_path / "rust" / name, 100 + i)
    put(tmp_path / "masks" / "rust" / "0_mask.png", spot=True)
    put(tmp_path / "masks" / "1.png", spot=True)
    put(tmp_path / "rust" / "2_mask.png", spot=True)
    train = datasets.load("folder", split="train", size=SIZE, root=tmp_path)
    test = datasets.load("folder", split="test", size=SIZE, root=tmp_path)
    assert len(train) == 8 and test.defects == ["good"] * 2 + ["rust"] * 3
    assert all(s.mask.any() for s in test[2:]), "all three habits of naming masks"
    assert train.category == tmp_path.name
    assert datasets.load("folder", split="train", root=tmp_path, train_fraction=0.5).labels.size == 5


def test_only_good(tmp_path):
    for i in range(5):
        put(tmp_path / f"{i}.png", i)
    assert len(datasets.load("folder", split="train", root=tmp_path)) == 4
    assert (datasets.load("folder", split="test", root=tmp_path).labels == 0).all()


def test_table(tmp_path):
    put(tmp_path / "p" / "a.png")
    put(tmp_path / "p" / "b.png")
    put(tmp_path / "p" / "m.png", spot=True)
    table = tmp_path / "t.csv"
    table.write_text("path,label,split,defect,mask\np/a.png,good,train,,\np/b.png,1,,rust,p/m.png\n")
    assert len(datasets.load("folder", split="train", root=table)) == 1
    test = datasets.load("folder", split="test", size=SIZE, root=table)
    assert test.defects == ["rust"] and test[0].mask.any()
    for text, match in (
        ("path,label\na.png,maybe\n", "line 2: label 'maybe'"),
        ("file,label\na.png,0\n", "line 2: no path"),
        ("path,label,split\na.png,1,train\n", "marked for training"),
        ("path,label,split\na.png,1,later\n", "split 'later'"),
        ("path,label\n", "no row"),
    ):
        table.write_text(text)
        with pytest.raises(datasets.DataError, match=match):
            datasets.load("folder", root=table)


def test_check_finds_what_is_wrong(tmp_path):
    mvtec_tree(tmp_path)
    put(tmp_path / "test" / "good" / "copy.png", 10)  # the same as train/good/0.png
    put(tmp_path / "test" / "cut" / "long.png", 61, size=(400, 90))
    put(tmp_path / "test" / "cut" / "1.png", 62)
    put(tmp_path / "ground_truth" / "cut" / "1_mask.png", 0, "L")
    (tmp_path / "train" / "good" / "broken.png").write_bytes(b"\x89PNG nothing")
    assert "file format" not in str(datasets.check(tmp_path))
    for path in (tmp_path / "test" / "cut").iterdir():
        path.rename(path.with_suffix(".jpg"))
    text = str(datasets.check(tmp_path))
    for wrong in ("the test is spoilt", "only 40 x 30 pixels", "squeezed", "mask is empty",
                  "broken.png: cannot be read", "good pictures are .png, defective ones .jpg",
                  "only 4 pictures to train on", "1 of 3 defective pictures have no mask"):  # fmt: skip
        assert wrong in text, wrong
    assert "both" in str(datasets.check(tmp_path / "train"))


def test_check_finds_what_would_only_fail_later(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(25):
        (tmp_path / "good").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (70, 70), np.uint8)).save(tmp_path / "good" / f"{i}.png")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    for i, path in enumerate(sorted((tmp_path / "bad").iterdir())):
        pixels = np.asarray(Image.open(path))[::-1]
        Image.fromarray(pixels).save(path) if i > 4 else path.unlink()
    put(tmp_path / "masks" / "bad" / "9_mask.png", spot=True, size=(70, 70))
    assert datasets.check(tmp_path).problems == [
        "19 of 20 defective pictures have no mask: pixel figures leave them out"
    ]
    Image.fromarray(rng.random((70, 70), np.float32)).save(tmp_path / "good" / "float.tif")
    deep = rng.integers(0, 4096, (70, 70)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "good" / "deep.tif")
    Image.open(tmp_path / "good" / "0.png").convert("RGB").save(tmp_path / "bad" / "copy.bmp")
    (tmp_path / "good" / "IMG_1.HEIC").write_bytes(b"from a telephone")
    (tmp_path / "good" / "notes.txt").write_text("no picture, and nothing to complain of")
    put(tmp_path / "good" / "monday" / "1.png")
    put(tmp_path / "masks" / "bad" / "99_mask.png", spot=True)
    put(tmp_path / "masks" / "wrong name" / "3.png", spot=True)
    put(tmp_path / "__MACOSX" / "good" / "._0.png")
    with pytest.raises(datasets.DataError, match="without its picture"):
        datasets.load("folder", root=tmp_path)
    text = str(datasets.check(tmp_path))
    for wrong in ("float.tif: pixels of mode 'F'", "deep.tif: hardly any contrast", "12 bits in a file of 16",
                  "copy.bmp (once good, once defective", "IMG_1.HEIC: not read, since nothing here",
                  "1.png: not read, since no picture is looked", "99_mask.png: a mask without its picture",
                  "3.png: a mask without its picture"):  # fmt: skip
        assert wrong in text, wrong
    assert "__MACOSX" not in text and "notes" not in text


@pytest.mark.parametrize(("size", "mode"), [((80, 90), "RGB"), ((70, 70), "L")])
def test_check_names_what_gives_the_kind_away(tmp_path, size, mode):
    for i in range(3):
        put(tmp_path / "good" / f"{i}.png", i, size=(70, 70))
        put(tmp_path / "bad" / f"{i}.png", 50 + i, mode, size)
    found = [p for p in datasets.check(tmp_path).problems if "may learn" in p]
    said = (
        "80 x 90: a detector may learn the size" if mode == "RGB" else "ones L: a detector may learn the mode"
    )
    assert len(found) == 1 and said in found[0]
    put(tmp_path / "bad" / "3.png", 60, "RGB", (70, 70))
    assert not [p for p in datasets.check(tmp_path).problems if "may learn" in p]


def test_an_archive_from_a_mac_names_the_right_folder(tmp_path):
    put(tmp_path / "my_pictures" / "good" / "0.png")
    put(tmp_path / "__MACOSX" / "my_pictures" / "._0.png")
    with pytest.raises(datasets.DataError, match="category='my_pictures'"):
        datasets.load("folder", root=tmp_path)


# --- bad input ---


def test_missing_things_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNAD_DATA", str(tmp_path))
    for name, how in (
        ("mvtec_ad", "form"),
        ("magnetic_tile", "data get"),
        ("cplid", "data get"),
        ("insplad_fault", "Drive"),
    ):
        with pytest.raises(datasets.MissingDataError, match=how):
            datasets.load(name)
    with pytest.raises(datasets.DataError, match="no data set 'mvtec'"):
        datasets.load("mvtec")
    with pytest.raises(datasets.DataError, match="no category 'x'"):
        datasets.load("elpv", "x")
    with pytest.raises(datasets.DataError, match="no split 'val'"):
        datasets.load("elpv", split="val")
    with pytest.raises(datasets.DataError, match="no option colour"):
        datasets.load("elpv", colour=1)
    with pytest.raises(datasets.DataError, match="root="):
        datasets.load("folder")
    with pytest.raises(datasets.DataError, match="8 pixels"):
        datasets.load("powerline", size=4)


def test_folders_without_what_is_needed(tmp_path):
    with pytest.raises(datasets.MissingDataError, match="no such folder"):
        datasets.load("folder", root=tmp_path / "nowhere")
    with pytest.raises(datasets.MissingDataError, match="no picture"):
        datasets.load("folder", root=tmp_path)
    (tmp_path / "train" / "nice").mkdir(parents=True)
    with pytest.raises(datasets.MissingDataError, match="good"):
        datasets.load("folder", root=tmp_path)
    mvtec_tree(tmp_path / "sets" / "screw")
    with pytest.raises(datasets.DataError, match="category='screw'"):
        datasets.load("folder", root=tmp_path / "sets")
    assert len(datasets.load("folder", "screw", root=tmp_path / "sets")) == 3


def test_masks_that_do_not_fit(tmp_path):
    mvtec_tree(tmp_path)
    put(tmp_path / "ground_truth" / "cut" / "0_mask.png", spot=True, size=(41, 30))
    with pytest.raises(datasets.DataError, match=r"41 x 30 pixels, its picture .* 40 x 30"):
        datasets.load("folder", split="test", root=tmp_path)[1]
    put(tmp_path / "ground_truth" / "cut" / "7_mask.png", spot=True)
    with pytest.raises(datasets.DataError, match=r"7_mask\.png: a mask without its picture"):
        datasets.load("folder", split="test", root=tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_pictures_are_named(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(datasets.DataError, match=r"x\.png"):
        open_picture(path)


def test_truncated_picture(tmp_path):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)).save(out, "JPEG")
    path = tmp_path / "half.jpg"
    path.write_bytes(out.getvalue()[: len(out.getvalue()) // 2])
    with pytest.raises(datasets.DataError, match=r"half\.jpg: cannot be read"):
        read_image(path, SIZE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_modes(tmp_path, mode):
    """The same grey in every mode gives the same values."""
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    grey = Image.fromarray(np.full((20, 20), 255, np.uint8))
    if mode == "I;16":
        Image.fromarray(np.full((20, 20), 65535, np.uint16)).save(path)
    else:
        grey.convert("RGB").convert(mode).save(path)
    assert read_image(path, SIZE).min() > 0.99


def test_float_pictures_are_refused_and_transparency_is_white():
    with pytest.raises(datasets.DataError, match="no known range"):
        to_rgb(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "x.tif")
    assert np.asarray(to_rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))).min() == 255


def test_exif_turns_the_picture(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    assert open_picture(path).size == (20, 40)


def test_small_defects_survive(tmp_path):
    pixels = np.zeros((512, 512), np.uint8)
    pixels[100, 200] = 255
    Image.fromarray(pixels).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", 64)
    assert mask.sum() == 1 and mask[0, 12, 25]
    Image.fromarray((pixels > 0).astype(np.uint8)).save(
        tmp_path / "one.png"
    )  # class numbers instead of white
    assert read_mask(tmp_path / "one.png", 64).sum() == 1


@pytest.mark.parametrize("value", [1, 2, 255, 30000, 65535])
def test_masks_of_16_bits(tmp_path, value):
    """White, grey or the number of a class: what is not black is defect."""
    pixels = np.zeros((64, 64), np.uint16)
    pixels[8:16, 8:16] = value
    Image.fromarray(pixels).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", 64)
    assert mask[0, 8:16, 8:16].all() and mask.sum() == 64


def test_transparent_parts_of_a_mask_are_no_defect(tmp_path):
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[:, 32:, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", 64)
    assert mask[0, :, :32].all() and not mask[0, :, 32:].any()


# --- downloads ---


def zip_of(path: Path, *names: str, link: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            item = zipfile.ZipInfo(name)
            if link:
                item.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(item, "/etc/passwd")
    return path


def tar_of(path: Path, name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Path:
    with tarfile.open(path, "w:gz") as file:
        item = tarfile.TarInfo(name)
        item.type, item.linkname, item.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
        file.addfile(item, io.BytesIO(b"abc"))
    return path


@pytest.mark.parametrize(
    "name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "..\\out.txt", "C:/out.txt"]
)
def test_archives_that_escape(tmp_path, name):
    for archive in (zip_of(tmp_path / "a.zip", name), tar_of(tmp_path / "a.tgz", name)):
        with pytest.raises(datasets.DataError, match="outside the target"):
            extract(archive, tmp_path / "home" / "set")
    assert not list(tmp_path.rglob("out.txt")) and not Path("/tmp/out.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_archives_with_links_and_devices(tmp_path, kind):
    with pytest.raises(datasets.DataError, match="link"):
        extract(tar_of(tmp_path / "a.tar", "x", kind, "/etc/passwd"), tmp_path / "set")
    with pytest.raises(datasets.DataError, match="link"):
        extract(zip_of(tmp_path / "a.zip", "x", link=True), tmp_path / "set")


def test_broken_archives(tmp_path):
    with pytest.raises(datasets.MissingDataError, match="no such file"):
        extract(tmp_path / "none.zip", tmp_path / "set")
    good = zip_of(tmp_path / "good.zip", "a.txt", "b.txt").read_bytes()
    for content in (b"", b"hello", good[: len(good) // 2], good[:40] + b"\xff" + good[41:]):
        (tmp_path / "bad.zip").write_bytes(content)
        with pytest.raises(datasets.DataError, match=r"bad\.zip"):
            extract(tmp_path / "bad.zip", tmp_path / "set")


def test_download_is_all_or_nothing(tmp_path):
    mvtec_tree(tmp_path / "src" / "screw")
    archive = tmp_path / "m.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (tmp_path / "src").rglob("*.png"):
            file.write(path, path.relative_to(tmp_path / "src"))
    home = tmp_path / "home"
    assert datasets.download("mvtec_ad", home, archive) == home / "mvtec_ad"
    assert sorted(p.name for p in home.iterdir()) == ["mvtec_ad"]
    with pytest.raises(datasets.DataError, match="exists already"):
        datasets.download("mvtec_ad", home, archive)
    with pytest.raises(datasets.DataError, match="outside"):
        datasets.download("cplid", home, zip_of(tmp_path / "evil.zip", "../x"))
    assert sorted(p.name for p in home.iterdir()) == ["mvtec_ad"], "nothing half done is left"
    with pytest.raises(datasets.MissingDataError, match="form"):
        datasets.download("mvtec_ad", tmp_path / "other")
    with pytest.raises(datasets.DataError, match="no data set"):
        datasets.download("imagenet", home)


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATTNAD_DATA", str(tmp_path))
    assert datasets.cli(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in datasets.SOURCES) and str(tmp_path) in listed
    assert datasets.cli(["get", "mvtec_ad"]) == 1 and "form" in capsys.readouterr().err
    assert datasets.cli(["check", str(tmp_path / "none")]) == 1
    mvtec_tree(tmp_path / "own")
    assert datasets.cli(["check", str(tmp_path / "own")]) == 1 and "tiny" not in capsys.readouterr().err


def test_import_is_light():
    """Data sets need numpy and Pillow only."""
    code = "import sys, attnad.datasets; print([m for m in ('torch', 'pandas', 'scipy') if m in sys.modules])"
    root = str(Path(__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]", run.stderr
