"""When is a chapter stale? A key over everything its figures depend on.

Sphinx' own cache looks only at a chapter's cells. Here a chapter is stale when anything its figures
depend on has changed: its code, the modules of `attnad` that it reaches through imports (lazy ones
too), the tables and weights in the repository, the installed packages, Python, or the profile.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import platform
import re
from pathlib import Path

import nbformat
from chapters import ROOT, TIMES
from myst_nb.core.read import read_myst_markdown_notebook


def digest(*parts: str | bytes) -> str:
    h = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "little") + data)
    return h.hexdigest()


def file_digest(file: Path) -> str:
    """Of where in the repository the file lies, and of what is in it."""
    return digest(str(file.relative_to(ROOT)), file.read_bytes())


def module_files(name: str, root: Path = ROOT) -> list[Path]:
    """The files that importing `name` runs: its package's `__init__`s and itself, as far as they exist."""
    files, parts = [], name.split(".")
    for i in range(1, len(parts) + 1):
        path = root.joinpath(*parts[:i])
        files += [f for f in (path / "__init__.py", path.with_suffix(".py")) if f.is_file()]
    return files


def imports(code: str, package: str = "") -> set[str]:
    """Names of the modules that `code` imports anywhere, also inside functions; `package` resolves dots."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            # `from package import name`: the name may be a module.
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def dependencies(code: str, root: Path = ROOT) -> set[Path]:
    """The files of `attnad` that running `code`, Python with magics of IPython, can reach."""
    found: set[Path] = set()
    if re.search(r"-m\s+attnad|import_module|__import__", code):
        return set(root.glob("attnad/**/*.py"))
    code = re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)
    waiting = [
        f for name in imports(code) if name.split(".")[0] == "attnad" for f in module_files(name, root)
    ]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        text = file.read_text(encoding="utf8")
        package = ".".join(file.relative_to(root).parent.parts)
        for name in imports(text, package):
            if name.split(".")[0] == "attnad":
                waiting += module_files(name, root)
        if re.search(r"import_module|__import__", text):  # by a name that is only known when it runs
            waiting += file.parent.glob("**/*.py")
    return found


def environment(profile: str) -> str:
    """All that is not in the repository and may change a result."""
    packages = sorted(
        f"{d.name}=={d.version}" for d in importlib.metadata.distributions() if d.name != "attnad"
    )
    data = [f for f in sorted(ROOT.glob("data/**/*.csv")) if f != TIMES]
    weights = [f for f in sorted(ROOT.glob("attnad/**/*")) if f.suffix in {".safetensors", ".json", ".csv"}]
    return digest(platform.python_version(), profile, *packages, *map(file_digest, data + weights))


def read(chapter: Path) -> nbformat.NotebookNode:
    """The chapter as the notebook that Jupyter Book will look for in the cache."""
    return read_myst_markdown_notebook(chapter.read_text(encoding="utf8"), add_source_map=True)


def key(notebook: nbformat.NotebookNode, env: str) -> str:
    cells = [c.source for c in notebook.cells if c.cell_type == "code"]
    return digest(env, *cells, *map(file_digest, sorted(dependencies("\n".join(cells)))))
