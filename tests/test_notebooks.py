"""The notebooks for Colab: in step with the chapters, and without raw MyST."""

import json
import re

import pytest

pytest.importorskip("myst_nb", reason="the book's tools are not installed: pip install -e '.[book]'")

import chapters
import nbformat
import notebooks
from markdown_plain import ROLE, Plain, labels

CHAPTERS = chapters.chapters()
TEMPLATE = chapters.BOOK / "_template.md"
RAW = re.compile(r"^\s*(`{3,}|:{3,})\s*\{|^\([\w-]+\)=\s*$|\[\^\w+\]|\{\{", re.M)


def markdown_of(text):
    cells = json.loads(text)["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_notebook_is_in_step(chapter):
    path = chapter.with_suffix(".ipynb")
    assert path.exists(), f"{path.name} is missing: make notebooks"
    assert path.read_text(encoding="utf8") == notebooks.notebook(chapter), (
        f"{path.name} is behind: make notebooks"
    )


@pytest.mark.parametrize("solutions", [notebooks.FOLDED, notebooks.REMOVED, notebooks.OPEN])
@pytest.mark.parametrize("chapter", [*CHAPTERS, TEMPLATE], ids=lambda c: c.stem)
def test_notebook_is_valid_and_has_no_raw_myst(chapter, solutions):
    text = notebooks.notebook(chapter, solutions)
    nbformat.validate(nbformat.reads(text, as_version=4))
    for source in markdown_of(text):
        prose = re.sub(r"^```.*?^```", "", source, flags=re.M | re.S)
        assert not RAW.search(prose), source
        assert not [m[0] for m in ROLE.finditer(prose) if m["role"]], source
    assert all(not c.get("outputs") for c in json.loads(text)["cells"])


def test_no_notebook_without_its_chapter():
    assert {p.stem for p in chapters.BOOK.glob("*.ipynb")} <= {c.stem for c in CHAPTERS}


def test_solutions_are_folded_removed_or_open():
    folded, removed, opened = (
        notebooks.notebook(TEMPLATE, kind) for kind in (notebooks.FOLDED, notebooks.REMOVED, notebooks.OPEN)
    )
    code = "check(lambda scores, t: (scores > t).mean())"
    assert any("<summary>Solution of exercise 1" in m and code in m for m in markdown_of(folded))
    assert code not in removed and "olution" not in "".join(markdown_of(removed))
    assert code in ["".join(c["source"]) for c in json.loads(opened)["cells"] if c["cell_type"] == "code"]


def test_first_cells_name_the_repository():
    cells = json.loads(notebooks.notebook(TEMPLATE))["cells"]
    url, branch = chapters.repository()
    assert "".join(cells[0]["source"]).split("\n")[2].startswith("# 0. The template")
    assert "colab-badge.svg" in "".join(cells[0]["source"])
    assert f"git+{url}@{branch}" in "".join(cells[1]["source"])


@pytest.fixture
def plain(tmp_path):
    """Converts a text as if it stood in a chapter."""

    def convert(text, line=1):
        path = chapters.BOOK / "_template.md"
        converter = Plain(path)
        converter.equations, converter.exercises = {"eq-a": 1}, {"ex-a": 1}
        return converter.convert(text, line)

    return convert


@pytest.mark.parametrize(
    ("myst", "expected"),
    [
        ("{math}`x^2` and `{math}` itself", "$x^2$ and `{math}` itself"),
        (":::{note}\nOne.\n:::", "> **Note**\n>\n> One.\n"),
        ("```{warning} Careful.\n```", "> **Warning**\n>\n> Careful.\n"),
        ("```{dropdown} Why?\nSo.\n```", "<details><summary>Why?</summary>\n\nSo.\n\n</details>\n"),
        ("```{math}\n:label: eq-a\na = b\n```", "$$\na = b \\tag{1}\n$$"),
        ("See {eq}`eq-a`, {ref}`ex-a`.", "See (1), exercise 1."),
        ("(here)=\n# T", '<a id="here"></a>\n\n# T'),
        ("A claim.[^1]\n\n[^1]: Its reason.", "A claim.<sup>1</sup>\n\n<sup>1</sup> Its reason."),
        ("{cite:t}`hu2018` {cite}`hu2018,woo2018`", "Hu et al. (2018) (Hu et al., 2018; Woo et al., 2018)"),
        ("{term}`gates <gate>`", "*gates*"),
        ("```python\nx = '{note}'\n```", "```python\nx = '{note}'\n```"),
        ("```{note}\nOne.\n\n```{tip} Two.\n```", "> **Note**\n>\n> One.\n>\n> > **Tip**\n> >\n> > Two.\n"),
        ("````{note}\n```{tip}\nIn.\n```\n````", "> **Note**\n>\n> > **Tip**\n> >\n> > In.\n"),
    ],
)
def test_myst_becomes_plain(plain, myst, expected):
    assert plain(myst) == expected


@pytest.mark.parametrize(
    ("myst", "message"),
    [
        ("\n```{frobnicate}\n```", r"_template.md:2: the directive \{frobnicate\}"),
        ("a\n{frob}`x`", r"_template.md:2: the role \{frob\}"),
        ("{cite}`nobody1900`", "nobody1900 is not in book/references.bib"),
        ("```{figure} no.png\n:alt: x\n```", "does not exist"),
        ("```{figure} no.png\n```", "no :alt:"),
        ("```{note}\nnever closed", "not closed"),
        ("{doc}`nowhere`", "does not exist"),
        ("{ref}`nowhere`", "does not exist"),
    ],
)
def test_what_is_not_known_stops_with_file_and_line(plain, myst, message):
    with pytest.raises(ValueError, match=message):
        plain(myst)


def test_labels_know_their_headings():
    assert labels()["ch-topic"] == (TEMPLATE, "0. The template of a chapter")


def test_links_to_planned_chapters_are_mentions_and_misspelt_ones_are_errors(plain, monkeypatch, tmp_path):
    for name in ("04_there.md", "_template.md"):
        (tmp_path / name).touch()
    monkeypatch.setattr(chapters, "BOOK", tmp_path)
    assert chapters.planned("12_localization") == "chapter 12 (planned)"
    assert [chapters.planned(p) for p in ("04_misspelt", "19_beyond", "glossary")] == [None] * 3
    assert (
        plain("See {doc}`12_localization` and {doc}`maps <12_localization>`.")
        == "See chapter 12 (planned) and maps."
    )
