"""What the tools of the book share: where the chapters are, how long one takes, where it is published."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
BUILD = ROOT / "_build"
TIMES = ROOT / "data" / "results" / "chapter_times.csv"
TIME_COLUMNS = ("chapter", "seconds", "threads", "machine", "cores", "profile", "python", "commit", "date")
LAST = 18  # the number of chapters that the book will have
WORDS_PER_MINUTE = 150  # slower than a novel: there are formulas and code


def chapters() -> list[Path]:
    """The chapters' sources, book/NN_topic.md, in order."""
    return sorted(BOOK.glob("[0-9][0-9]_*.md"))


def planned(page: str) -> str | None:
    """What stands for a link to a chapter that is not written yet, such as `12_localization`; else None."""
    match = re.match(r"(\d\d)_", page.rpartition("/")[2])
    if match is None or not 1 <= int(match[1]) <= LAST or list(BOOK.glob(f"{match[1]}_*.md")):
        return None
    return f"chapter {int(match[1])} (planned)"


def config() -> dict:
    """The book's `_config.yml`."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))


def repository() -> tuple[str, str]:
    """Address and branch of the published sources, from `_config.yml`."""
    where = config()["repository"]
    return where["url"].rstrip("/"), where["branch"]


def colab_url(chapter: Path) -> str:
    """Where Colab opens the chapter's notebook."""
    url, branch = repository()
    name = url.split("github.com/")[1]
    return f"https://colab.research.google.com/github/{name}/blob/{branch}/book/{chapter.stem}.ipynb"


def read_times(path: Path) -> list[dict[str, str]]:
    """One row for each chapter that was timed; none if there is no such file yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def recorded_times() -> dict[str, dict[str, str]]:
    """The recorded row of each chapter in `TIMES`, by the chapter's name."""
    return {row["chapter"]: row for row in read_times(TIMES)}


def reading_minutes(text: str) -> int:
    """An estimate from the number of words outside front matter, code cells included at half."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    cells = re.findall(r"^```\{code-cell\}.*?^```", text, flags=re.DOTALL | re.MULTILINE)
    words = len(re.findall(r"\w+", text)) - sum(len(re.findall(r"\w+", c)) for c in cells) // 2
    return max(1, round(words / WORDS_PER_MINUTE))


def duration(seconds: float) -> str:
    """A time in words: seconds below a minute and a half, else minutes."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def time_line(chapter: Path) -> str:
    """The sentence that says how long a chapter takes, from its words and from recorded runs."""
    minutes = reading_minutes(chapter.read_text(encoding="utf8"))
    read = f"Reading: about {minutes} min (an estimate from its length)."
    row = recorded_times().get(chapter.stem)
    if row is None:
        return f"{read} Running on a CPU: not measured yet. On a GPU: not measured."
    threads = f"{row['threads']} thread" + ("s" if row["threads"] != "1" else "")
    return (
        f"{read} Running on a CPU: {duration(float(row['seconds']))} "
        f"(measured {row['date'][:10]}, {threads} of {row['machine']}, profile `{row['profile']}`). "
        "On a GPU: not measured."
    )
