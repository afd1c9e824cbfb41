"""Figures with alternative text, and the player for pages without a kernel."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import IPython.display
import numpy as np
import pytest
from matplotlib import pyplot as plt

from attnad import plots, widgets


class Page(HTMLParser):
    """All tags with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as HTML."""
    out = []
    monkeypatch.setattr(IPython.display, "display", lambda item: out.append(item))
    return out


def draw(threshold=0.2, block="SE", smooth=False):
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.bar([0, 1], [threshold, len(block)])
    return fig


def test_show_needs_alternative_text_and_escapes_it(shown):
    with pytest.raises(ValueError, match="alternative text"):
        plots.show(draw(), alt="  ")
    plots.show(draw(), alt='scores < 1 & "high"')
    (image,) = Page(shown[0].data).all("img")
    assert image["alt"] == 'scores < 1 & "high"'
    assert image["src"].startswith("data:image/webp;base64,") and image["width"] == "200"
    assert "dark-light" in image["class"]


def test_show_closes_the_figure(shown):
    plt.close("all")
    plots.show(draw(), alt="bars")
    assert plt.get_fignums() == []


def test_titles_of_square_axes_are_not_cut():
    fig, (ax, _) = plt.subplots(1, 2)
    ax.imshow(np.ones((4, 4)))
    ax.set_title("Title")
    ax.axis("off")
    top_rows = np.asarray(plots.rasterise(fig))[:3]
    assert (top_rows == 255).all()


@pytest.fixture
def static(monkeypatch):
    monkeypatch.setenv("ATTNAD_STATIC", "1")


def test_static_player_has_every_combination_and_needs_no_network(shown, static):
    def text(threshold, block, smooth):
        return f"{block} at {threshold}</script>"

    widgets.explore(draw, text, threshold=[0.1, 0.2, 0.3], block=["SE", "CBAM"], smooth=(False, True))
    html = shown[0].data
    page = Page(html)
    data = json.loads(re.search(r"const data = (\{.*\});", html)[1])
    assert len(data["show"]) == 12
    assert len(data["frames"]) == 6, "`smooth` changes nothing: identical pictures are stored once"
    assert data["texts"][data["show"][2][1]] == "CBAM at 0.1</script>"
    assert "http" not in html.replace("data:image", "")
    (image,) = page.all("img")
    assert image["alt"] == "SE at 0.2</script>", "the default values of `draw` come first"
    assert page.all("figcaption")[0]["aria-live"] == "polite"
    names = {label["for"] for label in page.all("label")}
    controls = page.all("input") + page.all("select")
    assert names == {c["id"] for c in controls} and len(controls) == 3
    assert {c.get("type", "select") for c in controls} == {"range", "select", "checkbox"}


def test_players_on_one_page_do_not_clash(shown, static):
    for _ in range(2):
        widgets.explore(draw, "bars", threshold=[0.1, 0.2])
    ids = [a["id"] for page in (Page(s.data) for s in shown) for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)) == 4


def test_too_many_pictures_are_refused(static):
    with pytest.raises(ValueError, match=r"30 threshold x 30 width are 900 pictures, at most 200"):
        widgets.explore(draw, "bars", threshold=range(30), width=range(30))


@pytest.mark.parametrize(
    ("choices", "message"),
    [({}, "something to choose"), ({"a": []}, "no values"), ({"a": ["x", "x"]}, "read alike")],
)
def test_bad_choices_are_named(choices, message):
    with pytest.raises(ValueError, match=message):
        widgets.explore(draw, "bars", **choices)


def test_draw_must_return_a_figure(static):
    with pytest.raises(TypeError, match="must return a Matplotlib figure"):
        widgets.explore(lambda a: None, "bars", a=[1, 2])


def test_empty_alternative_text_of_one_frame_is_refused(static):
    with pytest.raises(ValueError, match="alternative text"):
        widgets.explore(draw, lambda threshold: "", threshold=[1, 2])


def test_live_widgets_redraw(shown, monkeypatch):
    ipywidgets = pytest.importorskip("ipywidgets")
    monkeypatch.delenv("ATTNAD_STATIC", raising=False)
    choices = {"threshold": [0.1, 0.2], "block": {"squeeze": "SE", "both": "CBAM"}, "smooth": [True, False]}
    widgets.explore(draw, lambda **v: f"{v}", **choices)
    slider, select, box, picture = shown[0].children
    assert isinstance(slider, ipywidgets.SelectionSlider) and slider.label == "0.2"
    assert isinstance(select, ipywidgets.Dropdown) and isinstance(box, ipywidgets.Checkbox)
    before = picture.value
    slider.value, select.value, box.value = 0, 1, True
    assert picture.value != before
    assert "&#x27;threshold&#x27;: 0.1, &#x27;block&#x27;: &#x27;CBAM&#x27;" in picture.value
    assert "&#x27;smooth&#x27;: True" in picture.value


def test_player_moves_in_a_browser(shown, static, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here to move the slider with")
    widgets.explore(
        draw, lambda threshold, smooth: f"at {threshold} {smooth}", threshold=[0.1, 0.2], smooth=[False, True]
    )
    page = tmp_path / "page.html"
    script = """
        const one = (name) => document.querySelector(name);
        const slider = one("input[type=range]"), box = one("input[type=checkbox]"), before = one("img").src;
        slider.value = 0; slider.dispatchEvent(new Event("input"));
        box.checked = true; box.dispatchEvent(new Event("input"));
        document.title = [one("img").alt, one("figcaption").textContent, one("output").textContent,
            slider.getAttribute("aria-valuetext"), one("img").src !== before].join("|");"""
    page.write_text(f"<meta charset=utf-8>{shown[0].data}<script>{script}</script>", encoding="utf8")
    switches = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-sync"
    command = [browser, *(f"--{s}" for s in switches.split()), f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "<title>at 0.1 True|at 0.1 True|0.1|0.1|true</title>" in done.stdout
