"""Which chapters a change reaches."""

import pytest

pytest.importorskip("myst_nb", reason="the book's tools are not installed: pip install -e '.[book]'")

import stale


@pytest.fixture
def package(tmp_path):
    """A package: a imports b lazily, registry imports all by name, lonely is imported by nobody."""
    files = {
        "attnad/__init__.py": "",
        "attnad/a.py": "def f():\n    from attnad import b\n    return b",
        "attnad/b.py": "from . import c",
        "attnad/c.py": "import numpy",
        "attnad/lonely.py": "",
        "attnad/zoo/__init__.py": "from importlib import import_module\nload = import_module",
        "attnad/zoo/cat.py": "from ..c import x",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def names(code):
        return {p.relative_to(tmp_path / "attnad").as_posix() for p in stale.dependencies(code, tmp_path)}

    return names


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import numpy", set()),
        ("import attnad", {"__init__.py"}),
        ("from attnad import c", {"__init__.py", "c.py"}),
        ("def g():\n    import attnad.a as a", {"__init__.py", "a.py", "b.py", "c.py"}),
        ("from attnad.zoo import load", {"__init__.py", "zoo/__init__.py", "zoo/cat.py", "c.py"}),
        ("%matplotlib inline\nif 1:\n    !ls attnad\nfrom attnad import c", {"__init__.py", "c.py"}),
    ],
)
def test_imports_are_followed_also_lazy_ones(package, code, expected):
    assert package(code) == expected


def test_command_line_reaches_everything(package):
    assert "lonely.py" in package("import os; os.system('python -m attnad train')")
    assert "lonely.py" in package("!python -m attnad data list")


def cells(*sources):
    import nbformat

    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])


def test_key_follows_code_and_surroundings_and_survives_magics():
    key = stale.key(cells("%matplotlib inline\nx = 1"), "env")
    assert key == stale.key(cells("%matplotlib inline\nx = 1"), "env")
    assert key != stale.key(cells("%matplotlib inline\nx = 2"), "env")
    assert key != stale.key(cells("%matplotlib inline\nx = 1"), "other env")


def test_key_follows_a_line_in_the_package(monkeypatch, tmp_path):
    (tmp_path / "attnad").mkdir()
    (tmp_path / "attnad" / "__init__.py").write_text("a = 1\n")
    monkeypatch.setattr(stale, "ROOT", tmp_path)
    monkeypatch.setattr(stale, "dependencies", lambda code: sorted(tmp_path.glob("attnad/*.py")))
    before = stale.key(cells("import attnad"), "env")
    (tmp_path / "attnad" / "__init__.py").write_text("a = 2\n")
    assert stale.key(cells("import attnad"), "env") != before


def test_profile_is_part_of_the_surroundings():
    assert stale.environment("quick") != stale.environment("gpu")
