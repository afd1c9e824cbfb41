"""The built pages, and the files that say what is built. `make book` first; else the pages are skipped."""

import csv
import html.parser
import re
import urllib.parse
from functools import cache

import pytest

pytest.importorskip("yaml", reason="the book's tools are not installed: pip install -e '.[book]'")

import chapters
import yaml

HTML = chapters.BUILD / "html"
built = pytest.mark.skipif(not (HTML / "index.html").exists(), reason="no built book here: make book")


class Page(html.parser.HTMLParser):
    """Tags with attributes, ids, and the addresses that a browser would fetch by itself."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}


@cache
def page(path):
    return Page(path.read_text(encoding="utf8"))


def pages():
    return [p for p in sorted(HTML.glob("**/*.html")) if "_static" not in p.parts]


def name(path):
    return path.relative_to(HTML).as_posix()


def toc_files():
    toc = yaml.safe_load((chapters.ROOT / "_toc.yml").read_text(encoding="utf8"))
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def test_table_of_contents_has_every_page_once_and_in_order():
    listed = toc_files()
    there = [f"book/{p.stem}" for p in chapters.BOOK.glob("*.md") if not p.stem.startswith("_")]
    assert sorted(listed) == sorted(there)
    numbered = [f for f in listed if re.match(r"book/\d\d_", f)]
    assert numbered == sorted(numbered)


@pytest.mark.parametrize("chapter", chapters.chapters(), ids=lambda c: c.stem)
def test_chapter_carries_its_number_and_its_time(chapter):
    text = chapter.read_text(encoding="utf8")
    title = re.search(r"^# (.*)$", text, re.M)[1]
    assert title.startswith(f"{int(chapter.stem[:2])}. "), "the title begins with the number of the file"
    assert "{chapter-time}" in text


def test_recorded_times_are_of_chapters():
    if not chapters.TIMES.exists():
        pytest.skip("no times recorded yet: make times")
    with chapters.TIMES.open(encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    assert {r["chapter"] for r in rows} <= {c.stem for c in chapters.chapters()}
    assert all(float(r["seconds"]) > 0 and r["machine"] and r["commit"] for r in rows)


@pytest.fixture
def build_book():
    return pytest.importorskip(
        "build_book", reason="the book's tools are not installed: pip install -e '.[book]'"
    )


def test_a_time_is_recorded_with_its_provenance(build_book, monkeypatch):
    run = {
        "device": "cpu: A CPU",
        "python": "3.11.7",
        "versions": "torch 2",
        "commit": "ab12+",
        "date": "2026",
    }
    monkeypatch.setattr(build_book, "provenance", lambda: run)
    row = build_book.time_row("01_a", 1.26, 2, "quick")
    assert tuple(row) == chapters.TIME_COLUMNS
    cores = row.pop("cores")
    assert int(cores) >= 1
    assert list(row.values()) == ["01_a", "1.3", "2", "A CPU", "quick", "3.11.7", "ab12+", "2026"]


def test_rows_of_times_are_added_and_replaced(build_book, tmp_path):
    file = tmp_path / "results" / "times.csv"
    assert chapters.read_times(file) == []
    old, new, other = (
        build_book.time_row(*row, 1, "quick") for row in (("02_b", 3), ("02_b", 4), ("01_a", 5))
    )
    build_book.write_times(file, [old])
    build_book.write_times(file, [new, other])
    assert chapters.read_times(file) == [other, new]


def test_licences_of_text_and_pictures_are_named():
    readme = (chapters.ROOT / "README.md").read_text(encoding="utf8")
    assert "CC BY 4.0" in readme and "CC BY-NC-SA 4.0" in readme and "MIT" in readme


@built
def test_every_listed_page_is_built():
    assert all((HTML / f"{file}.html").exists() for file in toc_files())


@built
@pytest.mark.parametrize("path", pages(), ids=name)
def test_no_cell_ended_in_an_error(path):
    text = path.read_text(encoding="utf8")
    assert "Traceback" not in text or "traceback" not in " ".join(
        t[1].get("class") or "" for t in page(path).tags
    )
    assert not re.search(r'class="[^"]*\b(output traceback|output_error|system-message)\b', text)


@built
@pytest.mark.parametrize("path", pages(), ids=name)
def test_no_page_shows_a_warning(path):
    assert not any("output stderr" in (attributes.get("class") or "") for _, attributes in page(path).tags)


@built
@pytest.mark.parametrize("path", pages(), ids=name)
def test_every_picture_has_alternative_text(path):
    bare = [
        a.get("src", "")[:60] for t, a in page(path).tags if t == "img" and not (a.get("alt") or "").strip()
    ]
    assert not bare


@built
@pytest.mark.parametrize("path", pages(), ids=name)
def test_heatmaps_are_exempt_from_dark_mode(path):
    figures = [a for t, a in page(path).tags if t == "img" and a.get("src", "").startswith("data:")]
    assert all("dark-light" in (a.get("class") or "") for a in figures)


@built
@pytest.mark.parametrize("path", pages(), ids=name)
def test_page_fetches_nothing_from_elsewhere(path):
    fetched = []
    for tag, attrs in page(path).tags:
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            fetched.append(attrs.get("src") or "")
        elif tag == "link" and attrs.get("rel") not in ("canonical", "author", "license"):
            fetched.append(attrs.get("href") or "")
    assert not [url for url in fetched if re.match(r"(https?:)?//", url)]
    scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", path.read_text(encoding="utf8"), re.S)
    assert not [s[:200] for s in scripts if re.search(r"https?://(?!www\.w3\.org)", s)]


@built
@pytest.mark.parametrize("path", pages(), ids=name)
def test_internal_links_lead_somewhere(path):
    broken = []
    for tag, attrs in page(path).tags:
        url = urllib.parse.urlsplit(attrs.get("href") or "") if tag == "a" else None
        if url is None or url.scheme or url.netloc or not (url.path or url.fragment):
            continue
        target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
        anchors = page(target).ids if target.suffix == ".html" and target.exists() else set()
        if not target.exists() or (url.fragment and urllib.parse.unquote(url.fragment) not in anchors):
            broken.append(attrs["href"])
    assert not broken


@built
@pytest.mark.parametrize("path", pages(), ids=name)
def test_colab_button_opens_the_paired_notebook(path):
    links = {
        a["href"]
        for t, a in page(path).tags
        if t == "a" and (a.get("href") or "").startswith("https://colab.research.google.com")
    }
    chapter = chapters.BOOK / f"{path.stem}.md"
    if chapter not in chapters.chapters():
        assert not links, "only chapters have a notebook"
        return
    assert links == {chapters.colab_url(chapter)}
    assert chapter.with_suffix(".ipynb").exists(), "make notebooks"
