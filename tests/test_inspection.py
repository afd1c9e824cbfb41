"""From a folder to a detector, from a detector to a page."""

import re

import numpy as np
import pytest
from PIL import Image

from attnad import inspection
from attnad.__main__ import main
from attnad.methods import PatchCore


def picture(seed, spot=False):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(100, 140, (64, 64, 3)).astype(np.uint8)
    if spot:
        pixels[20:44, 20:44] = (250, 30, 30)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for folder in ("own/good", "new/inner"):
        (home / folder).mkdir(parents=True)
    for i in range(25):
        picture(i).save(home / "own" / "good" / f"{i}.png")
    for i in range(3):
        picture(100 + i).save(home / "new" / f"fine <{i}>.png")
    picture(200, spot=True).save(home / "new" / "inner" / "spot & more.png")
    (home / "new" / "broken.jpg").write_bytes(b"not a picture")
    return home


def test_train_says_a_threshold_and_predict_finds_the_spot(home, tmp_path, capsys):
    file = tmp_path / "detector.safetensors"
    assert main(["train", str(home / "own"), "--out", str(file), "--false-alarms", "0.25"]) == 0
    said = capsys.readouterr().out
    line = re.search(r"threshold (\S+): ([\d.]+)% false alarms are expected", said)
    assert line and float(line[2]) <= 25
    page = tmp_path / "page.html"
    given = ["--detector", str(file), "--threshold", line[1], "--report", str(page)]
    assert main(["predict", str(home / "new"), *given]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "spot & more.png" in first and float(first.split("\t")[0]) > float(line[1])
    assert last.startswith("nan") and "broken.jpg" in last
    text = page.read_text(encoding="utf8")
    assert text.index("spot &amp; more.png") < text.index("fine &lt;") < text.index("broken.jpg")
    assert text.count('class="alarm"') >= 1 and "1 could not be read" in text
    assert len(re.findall(r"<img [^>]*alt=\"[^\"]+\"", text)) == 2 * 4, "a picture and its map, four times"
    assert not re.search(r"(src|href)=\"(?!data:)", text), "the page must fetch nothing"


def test_any_method_is_loaded_by_its_file(tmp_path):
    detector = PatchCore("efficientnet_lite0", image_size=64, coreset=1.0, device="cpu")
    images = np.random.default_rng(0).random((3, 3, 64, 64), dtype=np.float32)
    detector.fit(images).save(tmp_path / "d")
    again = inspection.load(tmp_path / "d", device="cpu")
    assert isinstance(again, PatchCore)
    assert np.array_equal(again.predict(images).scores, detector.predict(images).scores)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "nowhere", "--detector", "none"], "no detector"),
        (["train", "nowhere", "--out", "x"], "nowhere"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert says in capsys.readouterr().err


def test_a_folder_without_pictures_is_refused(tmp_path):
    detector = PatchCore("efficientnet_lite0", image_size=64, device="cpu")
    with pytest.raises(ValueError, match="no pictures"):
        inspection.judge(detector, tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        inspection.judge(detector, tmp_path / "none")


def test_masks_are_not_judged(tmp_path):
    detector = PatchCore("efficientnet_lite0", image_size=64, coreset=1.0, device="cpu")
    detector.fit(np.random.default_rng(0).random((3, 3, 64, 64), dtype=np.float32))
    for name in (
        "bad/a.png",
        "bad/a_mask.png",
        "bad/b_mask.png",
        "ground_truth/bad/a.png",
        "bad/masks/a.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(tmp_path / name)
    judged = inspection.judge(detector, tmp_path)
    assert sorted(one.path.name for one in judged) == ["a.png", "b_mask.png"], "b has no picture: it is one"
