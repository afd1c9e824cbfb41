"""Sphinx extension of the book: how long a chapter takes, numbers that begin anew in each, no Thebe.

```{chapter-time}
```
"""

from __future__ import annotations

from pathlib import Path

from chapters import TIMES, planned, time_line
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective


class ChapterTime(SphinxDirective):
    """How long the chapter takes, generated from its words and from `data/results/chapter_times.csv`."""

    def run(self):
        path = Path(self.env.doc2path(self.env.docname))
        self.env.note_dependency(str(TIMES))
        return self.parse_text_to_nodes(f"**Time.** {time_line(path)}")


def number_by_chapter(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Exercises and figures count from 1 in each chapter, on the page as in its notebook."""
    for kinds in env.toc_fignumbers.values():
        for numbers in kinds.values():
            for n, label in enumerate(numbers, 1):
                numbers[label] = (n,)
    return []  # no page needs to be read again


def name_planned(app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.TextElement):
    """A link to a chapter that is not written yet becomes a mention of it; a misspelt one stays a warning."""
    if node.get("reftype") != "doc" or (text := planned(node["reftarget"])) is None:
        return None
    return nodes.inline("", node.astext() if node.get("refexplicit") else text)


def without_thebe(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Leaves out Thebe, which Jupyter Book always adds: it comes from a CDN and needs Binder."""

    def wanted(file) -> bool:
        attributes = getattr(file, "attributes", {})
        return "thebe" not in f"{file} {getattr(file, 'filename', '')} {attributes.get('body', '')}".lower()

    context["script_files"] = [file for file in context.get("script_files", []) if wanted(file)]


def setup(app: Sphinx) -> dict:
    # After Sphinx' own collector, which numbers through the whole book, and before pages are written.
    app.connect("env-get-updated", number_by_chapter, priority=900)
    app.add_directive("chapter-time", ChapterTime)
    app.connect("missing-reference", name_planned)
    app.connect("html-page-context", without_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
