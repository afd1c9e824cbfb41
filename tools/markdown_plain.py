"""MyST to plain Markdown: what the chapters use, and an error for what they do not."""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path

import yaml
from chapters import BOOK, ROOT, chapters, colab_url, config, planned, repository, time_line

OPEN_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,}|:{3,})(?P<info>.*)$")
DIRECTIVE = re.compile(r"^\s*\{(?P<name>[\w:.-]+)\}\s*(?P<argument>.*)$")
# A role, `{name}` before a code span, or a code span alone, which is left as it is.
ROLE = re.compile(r"(?P<role>\{[\w:+.-]+\})?(?<!`)(?P<ticks>`+)(?!`)(?P<text>.+?)(?<!`)(?P=ticks)(?!`)", re.S)
TARGET = re.compile(r"^\((?P<label>[\w:.-]+)\)=\s*$")
ADMONITIONS = (
    "attention", "caution", "danger", "error", "hint", "important", "note", "seealso", "tip", "warning",
    "margin", "sidebar", "topic",
)  # fmt: skip
BARE = ("div", "grid", "tab-set", "card-carousel", "epigraph")  # only their content matters here
TITLED = ("grid-item", "grid-item-card", "card", "tab-item", "table")


@functools.cache
def labels() -> dict[str, tuple[Path, str]]:
    """Every `(label)=` of the book: its file, and the heading below it."""
    found = {}
    for path in sorted(BOOK.glob("*.md")):
        lines = path.read_text(encoding="utf8").splitlines()
        for i, line in enumerate(lines):
            match = TARGET.match(line)
            if match:
                title = next(
                    (t.lstrip("# ") for t in lines[i + 1 : i + 3] if t.startswith("#")), match["label"]
                )
                found[match["label"]] = (path, title)
    return found


@functools.cache
def bibliography() -> dict:
    from pybtex.database import parse_file

    return dict(parse_file(str(BOOK / "references.bib")).entries)


def last_names(entry) -> list[str]:
    return [re.sub(r"[{}]", "", " ".join(p.prelast_names + p.last_names)) for p in entry.persons["author"]]


def short(entry) -> str:
    """Rudolph et al."""
    names = last_names(entry)
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


def full(entry) -> str:
    """Authors. Title. Where, year."""
    fields = {k: re.sub(r"\\url\{(.*?)\}", r"\1", v) for k, v in entry.fields.items()}
    fields = {k: re.sub(r"[{}]", "", v).replace("--", "–") for k, v in fields.items()}
    where = fields.get("booktitle") or fields.get("journal") or fields.get("howpublished") or ""
    return f"{', '.join(last_names(entry))}. *{fields['title']}.* {where}, {fields['year']}."


class Plain:
    """Converts one chapter, cell by cell; remembers numbers of equations and exercises, and what is cited."""

    def __init__(self, chapter: Path, folded: bool = True, solutions: bool = True):
        self.chapter, self.folded, self.solutions = chapter, folded, solutions
        self.cited: list[str] = []
        text = chapter.read_text(encoding="utf8")
        # Numbers are given out beforehand: a reference may come before what it refers to.
        marks = r"^\$\$\s*\(([\w:.-]+)\)\s*$|^`{3,}\{math\}\s*\n:label:\s*(\S+)"
        self.equations = {a or b: n for n, (a, b) in enumerate(re.findall(marks, text, re.M), 1)}
        starts = r"^(?:`{3,}|:{3,})\{exercise(?:-start)?\}[^\n]*\n((?::[^\n]*\n)*)"
        self.exercises: dict[str, int] = {}
        for n, options in enumerate(re.findall(starts, text, re.M), 1):
            label = re.search(r"^:label:\s*(\S+)", options, re.M)
            self.exercises[label[1] if label else f"unnamed {n}"] = n
        self._next_exercise = 0
        self._depth = 0

    def fail(self, line: int, what: str):
        path = self.chapter
        if path.is_relative_to(ROOT):
            path = path.relative_to(ROOT)
        raise ValueError(f"{path}:{line}: {what}. Teach it to tools/markdown_plain.py, or write it plainly.")

    def exercise(self, label: str, line: int) -> int:
        if label not in self.exercises:
            self.fail(line, f"a solution of the exercise {label!r}, which this chapter does not have")
        return self.exercises[label]

    def works(self) -> list[str]:
        """Full references of what was cited so far."""
        return [full(bibliography()[key]) for key in sorted(set(self.cited))]

    # Blocks.

    def convert(self, text: str, line: int) -> str:
        """The Markdown of one cell; `line` is where it stands in the file, for error messages."""
        # Comments are for whoever edits the source; their lines stay, so that line numbers hold.
        text = re.sub(r"<!--.*?-->", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
        out: list[str] = []
        lines, i, start = text.split("\n"), 0, 0
        paragraph: list[str] = []

        def flush() -> None:
            nonlocal paragraph
            if paragraph:
                out.append(self.inline("\n".join(paragraph), line + start))
                paragraph = []

        while i < len(lines):
            fence = OPEN_FENCE.match(lines[i])
            target = TARGET.match(lines[i])
            if fence:
                flush()
                end = self.closing(lines, i, fence["fence"], line)
                body, info = lines[i + 1 : end], fence["info"]
                directive = DIRECTIVE.match(info)
                if directive:
                    indent = len(fence["indent"])
                    out.append(self.directive(directive, [b[indent:] for b in body], line + i))
                else:
                    out.append("\n".join(lines[i : end + 1]))
                i = end + 1
                continue
            if target:
                flush()
                out.append(f'<a id="{target["label"]}"></a>\n')
            elif lines[i].startswith("% "):  # a comment
                flush()
            else:
                if not paragraph:
                    start = i
                paragraph.append(lines[i])
            i += 1
        flush()
        return "\n".join(out)

    def closing(self, lines: list[str], i: int, fence: str, line: int) -> int:
        for k in range(i + 1, len(lines)):
            stripped = lines[k].strip()
            if stripped and set(stripped) == {fence[0]} and len(stripped) >= len(fence):
                return k
        if self._depth:  # a fence may end with what it stands in
            return len(lines)
        self.fail(line + i, f"{fence} is not closed in its cell")
        raise AssertionError

    def directive(self, match: re.Match, lines: list[str], line: int) -> str:
        name, argument = match["name"], self.inline(match["argument"].strip(), line)
        options, lines, skipped = split_options(lines)
        raw = "\n".join(lines).strip()

        def body() -> str:
            self._depth += 1
            try:
                return self.convert(raw, line + 1 + skipped)
            finally:
                self._depth -= 1

        if name in ADMONITIONS or name == "admonition":
            title = argument if name == "admonition" and raw else name.capitalize()
            content = body() if raw else argument
            if "dropdown" in options.get("class", ""):
                return details(title, content)
            return quote(f"**{title}**\n\n{content}")
        if name == "dropdown":
            return details(argument or "More", body())
        if name in ("exercise", "exercise-start"):
            self._next_exercise += 1
            title = f"**Exercise {self._next_exercise}**" + (f" ({argument})" if argument else "")
            return f"{title}\n\n{body()}" if raw else title
        if name == "exercise-end":
            return ""
        if name == "solution":
            if not self.solutions:
                return ""
            title = f"Solution of exercise {self.exercise(argument, line)}"
            return details(title, body()) if self.folded else f"**{title}**\n\n{body()}"
        if name == "math":
            return self.equation(raw, options.get("label"))
        if name in ("figure", "image"):
            return self.picture(argument, options, body() if raw else "", line)
        if name in ("code-block", "code", "sourcecode"):
            return f"```{argument}\n{raw}\n```"
        if name == "chapter-time":
            return f"**Time.** {time_line(self.chapter)}"
        if name == "glue:math":
            return f"`{argument}`"
        if name in BARE:
            return body()
        if name in TITLED:
            return (f"**{argument}**\n\n" if argument else "") + body()
        self.fail(line, f"the directive {{{name}}} is not known here")
        raise AssertionError

    def equation(self, latex: str, label: str | None) -> str:
        tag = f" \\tag{{{self.equations[label]}}}" if label else ""
        return f"$$\n{latex}{tag}\n$$"

    def picture(self, source: str, options: dict[str, str], caption: str, line: int) -> str:
        alt = options.get("alt", "").strip()
        if not alt:
            self.fail(line, f"the picture {source} has no :alt:")
        if not source.startswith("http"):
            url, branch = repository()
            where = (self.chapter.parent / source).resolve()
            if not where.exists():
                self.fail(line, f"the picture {source} does not exist")
            raw = url.replace("github.com", "raw.githubusercontent.com")
            source = f"{raw}/{branch}/{where.relative_to(ROOT).as_posix()}"
        width = f' width="{html.escape(options["width"])}"' if "width" in options else ""
        tag = f'<img src="{source}" alt="{html.escape(alt)}"{width}>'
        return f"{tag}\n\n*{caption.strip()}*" if caption.strip() else tag

    # Inline.

    def inline(self, text: str, line: int) -> str:
        def role(match: re.Match) -> str:
            if not match["role"]:
                return match[0]
            at = line + text[: match.start()].count("\n")
            return self.role(match["role"][1:-1], " ".join(match["text"].split()), at)

        text = ROLE.sub(role, text)
        text = re.sub(
            r"\$\$(.+?)\$\$\s*\(([\w:.-]+)\)",
            lambda m: self.equation(m[1].strip(), m[2]) if m[2] in self.equations else m[0],
            text,
            flags=re.S,
        )
        substitutions = config().get("parse", {}).get("myst_substitutions", {})
        text = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: str(substitutions.get(m[1], m[0])), text)
        text = re.sub(r"^\[\^([\w-]+)\]:\s*", r"<sup>\1</sup> ", text, flags=re.M)  # a footnote's text
        text = re.sub(r"\[\^([\w-]+)\]", r"<sup>\1</sup>", text)
        return re.sub(r"\]\((?!https?:|#|mailto:)([^)\s]+?\.md)(#[^)]*)?\)", self.link, text)

    def link(self, match: re.Match) -> str:
        return f"]({self.address((self.chapter.parent / match[1]).resolve())})"

    def address(self, path: Path) -> str:
        """Where another page of the book can be read from a notebook."""
        if path in chapters():
            return colab_url(path)
        url, branch = repository()
        return f"{url}/blob/{branch}/{path.relative_to(ROOT).as_posix()}"

    def role(self, name: str, text: str, line: int) -> str:
        explicit = re.match(r"(?P<title>.+?)\s*<(?P<target>[^>]+)>$", text)
        title, target = (explicit["title"], explicit["target"]) if explicit else (None, text)
        if name == "math":
            return f"${text}$"
        if name == "eq":
            if text not in self.equations:
                self.fail(line, f"the equation {text!r} does not exist in this chapter")
            return f"({self.equations[text]})"
        if name in ("cite", "cite:p", "cite:t", "cite:ps", "cite:ts"):
            return self.citation([k.strip() for k in text.split(",")], name.startswith("cite:t"), line)
        if name == "doc":
            path = (self.chapter.parent / f"{target.removesuffix('.md')}.md").resolve()
            if not path.exists():
                mention = planned(target)
                if mention is None:
                    self.fail(line, f"the page {target!r} does not exist")
                return str(title or mention)
            heading = re.search(r"^# (.*)$", path.read_text(encoding="utf8"), re.M)
            return f"[{title or (heading[1] if heading else target)}]({self.address(path)})"
        if name in ("ref", "numref"):
            if target in self.exercises:
                return title or f"exercise {self.exercises[target]}"
            if target not in labels():
                self.fail(line, f"the label {target!r} does not exist")
            where, named = labels()[target]
            return f"[{title or named}]({'#' + target if where == self.chapter else self.address(where)})"
        if name == "term":
            return f"*{title or text}*"
        if name.startswith("glue"):
            return f"`{text.split(':')[0]}` (computed here)"
        if name in ("sub", "sup", "kbd"):
            return f"<{name}>{text}</{name}>"
        if name == "abbr":
            return re.sub(r"\s*\(.*\)$", "", text)
        self.fail(line, f"the role {{{name}}} is not known here")
        raise AssertionError

    def citation(self, keys: list[str], in_text: bool, line: int) -> str:
        unknown = [k for k in keys if k not in bibliography()]
        if unknown:
            self.fail(line, f"{', '.join(unknown)} is not in book/references.bib")
        self.cited += keys
        entries = [bibliography()[k] for k in keys]
        if in_text:
            return ", ".join(f"{short(e)} ({e.fields['year']})" for e in entries)
        return "(" + "; ".join(f"{short(e)}, {e.fields['year']}" for e in entries) + ")"


def split_options(lines: list[str]) -> tuple[dict[str, str], list[str], int]:
    """Options of a directive, its body, and how many lines the options took."""
    if lines and lines[0].strip() == "---":
        end = next((i for i, text in enumerate(lines[1:], 1) if text.strip() == "---"), len(lines))
        values = yaml.safe_load("\n".join(lines[1:end])) or {}
        return {k: str(v) for k, v in values.items()}, lines[end + 1 :], end + 1
    options, n = {}, 0
    for text in lines:
        match = re.match(r"^:([\w-]+):\s*(.*)$", text)
        if not match:
            break
        options[match[1]], n = match[2], n + 1
    return options, lines[n:], n


def quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n")) + "\n"


def details(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body.strip()}\n\n</details>\n"
