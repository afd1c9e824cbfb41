"""Makes the notebook of each chapter from its source: `make notebooks`.

Colab and JupyterLab show MyST directives as they are written, so every directive and role becomes plain
Markdown or HTML here. One that is not known stops the program with file and line, rather than reach a
student raw. Notebooks are written without outputs, and the same source gives the same bytes.

    python tools/notebooks.py                      book/NN_topic.ipynb: solutions folded under the exercises
    python tools/notebooks.py --student --teacher  _build/classroom/: solutions taken out; solutions open
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

from chapters import BOOK, BUILD, chapters, colab_url, repository
from markdown_plain import Plain, details
from stale import read

# What a solution becomes.
FOLDED, REMOVED, OPEN = "folded", "removed", "open"

START = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{solution-start\}\s*(?P<label>\S+).*?^(?P=fence)\s*$", re.M | re.S
)
END = re.compile(r"^(?P<fence>`{3,}|:{3,})\{solution-end\}.*?^(?P=fence)\s*$", re.M | re.S)


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": re.sub(r"\n{3,}", "\n\n", text.strip())}


def code(text: str, tags: list[str] | None = None) -> dict:
    metadata = {"tags": tags} if tags else {}
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": text}


def opening(chapter: Path) -> list[dict]:
    """The Colab badge, and the cell that installs the package where it is missing."""
    url, branch = repository()
    badge = (
        f'<a href="{colab_url(chapter)}" target="_blank">'
        '<img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open in Colab"></a>'
    )
    install = (
        "# On Colab this installs the book's package; where it is installed, it does nothing.\n"
        "import importlib.util\n\n"
        'if importlib.util.find_spec("attnad") is None:\n'
        f'    %pip install -q "attnad @ git+{url}@{branch}"'
    )
    return [markdown(badge), code(install)]


def notebook(chapter: Path, solutions: str = FOLDED) -> str:
    """The chapter as the text of an .ipynb file.

    Raises:
        ValueError: a directive or role that cannot be turned into plain Markdown; names file and line.
    """
    source = read(chapter)
    plain = Plain(chapter, folded=solutions == FOLDED, solutions=solutions != REMOVED)
    cells: list[dict] = []
    inside: list[str] | None = None  # the parts of the solution that is open, if one is

    def text(part: str, line: int) -> None:
        converted = plain.convert(part, line)
        if not converted.strip():
            return
        if inside is None or solutions == OPEN:
            cells.append(markdown(converted))
        else:
            inside.append(converted)

    for cell, line in zip(source.cells, source.metadata.source_map):
        if cell.cell_type == "code":
            tags = list(cell.metadata.get("tags", []))
            if inside is None or solutions == OPEN:
                cells.append(code(cell.source, tags))
            else:
                inside.append(f"```python\n{cell.source}\n```")
            continue
        rest, at = cell.source, line + 1
        while rest:
            match = (START if inside is None else END).search(rest)
            before = rest[: match.start()] if match else rest
            text(before, at)
            if not match:
                break
            at += rest[: match.end()].count("\n")
            rest = rest[match.end() :]
            if inside is None:
                inside = []
                if solutions == OPEN:
                    cells.append(markdown(f"**Solution of exercise {plain.exercise(match['label'], at)}**"))
                title = f"Solution of exercise {plain.exercise(match['label'], at)}"
            else:
                if solutions == FOLDED:
                    cells.append(markdown(details(title, "\n\n".join(part.strip() for part in inside))))
                inside = None
    if inside is not None:
        raise ValueError(f"{chapter}: a solution-start without its solution-end")
    # The title first, the badge under it.
    cells[:1] = split_title(cells[0], opening(chapter))
    works = plain.works()
    if works:
        cells.append(markdown("## References\n\n" + "\n".join(f"- {work}" for work in works)))
    return dump(cells)


def split_title(first: dict, between: list[dict]) -> list[dict]:
    """The first cell cut after its title, with `between` in the gap."""
    match = re.search(r"^# .*$", first["source"], re.M)
    if first["cell_type"] != "markdown" or match is None:
        return [*between, first]
    head, rest = first["source"][: match.end()], first["source"][match.end() :].strip()
    badge, *others = between
    badge = markdown(f"{head}\n\n{badge['source']}")
    return [badge, *others, *([markdown(rest)] if rest else [])]


def dump(cells: list[dict]) -> str:
    """The notebook as text; a cell's id follows from what it holds, so that a diff shows what changed."""
    seen: dict[str, int] = {}
    for cell in cells:
        name = hashlib.sha256((cell["cell_type"] + cell["source"]).encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"
        cell["source"] = cell["source"].splitlines(keepends=True)
    metadata = {
        "accelerator": "GPU",
        "colab": {"gpuType": "T4", "provenance": [], "toc_visible": True},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    book = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--student", action="store_true", help="without solutions, in _build/classroom/student"
    )
    parser.add_argument(
        "--teacher", action="store_true", help="solutions open, in _build/classroom/instructor"
    )
    args = parser.parse_args()
    kinds = [(REMOVED, BUILD / "classroom" / "student")] if args.student else []
    kinds += [(OPEN, BUILD / "classroom" / "instructor")] if args.teacher else []
    failures = []
    for solutions, folder in kinds or [(FOLDED, BOOK)]:
        folder.mkdir(parents=True, exist_ok=True)
        for chapter in chapters():
            path = folder / f"{chapter.stem}.ipynb"
            try:
                path.write_text(notebook(chapter, solutions), encoding="utf8")
                print(path)
            except ValueError as error:
                failures.append(str(error))
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
