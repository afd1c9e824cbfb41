# make book    the book, executed, in _build/html/index.html
# make test    the tests
# make help    the rest
#
# PYTHON=python3.12 chooses an interpreter (3.10 to 3.13); PIP_ARGS goes to pip.

PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
STAMP = $(VENV)/.installed

.PHONY: help book test lint types notebooks classroom times clean distclean

help:
	@echo "make book       executes what changed and builds _build/html/index.html"
	@echo "make test       runs the tests"
	@echo "make lint       ruff; make types runs mypy"
	@echo "make notebooks  regenerates the notebooks for Colab from the chapters"
	@echo "make classroom  student and instructor notebooks, in _build/classroom/"
	@echo "make times      records how long the chapters took in the last build"
	@echo "make clean      removes _build; make distclean also removes $(VENV)"
	@echo "PYTHON=python3.12 chooses the interpreter, PIP_ARGS=... goes to pip."

$(STAMP): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else \
	  "This book needs Python 3.10 to 3.13, not %d.%d: make book PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e ".[book,test]"
	@touch $@

book: $(STAMP)
	$(PY) tools/build_book.py

test: $(STAMP)
	$(PY) -m pytest

lint: $(STAMP)
	$(PY) -m ruff check .

types: $(STAMP)
	$(PY) -m mypy

notebooks: $(STAMP)
	$(PY) tools/notebooks.py

classroom: $(STAMP)
	$(PY) tools/notebooks.py --student --teacher

times: $(STAMP)
	$(PY) tools/build_book.py --record
	$(PY) tools/notebooks.py

clean:
	rm -rf _build

distclean: clean
	rm -rf $(VENV)
