"""Sphinx extension of the book: the line that says how long a chapter takes, and pages without a CDN.

```{chapter-time}
```
"""

from __future__ import annotations

from pathlib import Path

from chapters import TIMES, time_line
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class ChapterTime(SphinxDirective):
    """How long the chapter takes, generated from its words and from `data/results/chapter_times.csv`."""

    def run(self):
        path = Path(self.env.doc2path(self.env.docname))
        self.env.note_dependency(str(TIMES))
        return self.parse_text_to_nodes(f"⏱ {time_line(path)}")


def setup(app: Sphinx) -> dict:
    app.add_directive("chapter-time", ChapterTime)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
