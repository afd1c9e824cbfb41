"""Builds the book: executes the chapters that are stale, then makes the pages. `make book` calls it.

What is executed goes into the cache that Jupyter Book reads, so it executes nothing itself; `stale.py`
says which chapters that are.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from chapters import BOOK, BUILD, ROOT, TIME_COLUMNS, TIMES, chapters, config, duration, read_times
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from stale import digest, environment, file_digest, key, read

from attnad.results import provenance

CACHE = BUILD / ".jupyter_cache"  # where Jupyter Book looks
KEYS = BUILD / "chapter_keys.json"
PAGES_KEY = BUILD / "pages_key.txt"
LAST_TIMES = BUILD / "chapter_times.csv"
INDEX = BUILD / "html" / "index.html"


def execute(chapter: Path, notebook: nbformat.NotebookNode) -> float:
    """Runs all cells; returns the seconds it took.

    Raises:
        RuntimeError: a cell failed; says which, and with what.
    """
    client = NotebookClient(
        notebook,
        extra_arguments=["--log-level=40"],  # its advice on encryption is not for a reader
        timeout=config()["execute"]["timeout"],
        kernel_name="python3",
        record_timing=False,  # it would stand in the cells' metadata, which the cache compares
        resources={"metadata": {"path": str(chapter.parent)}},
    )
    begin = time.perf_counter()
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError) as error:
        code = [c for c in notebook.cells if c.cell_type == "code"]
        n = next((i for i, c in enumerate(code) if any(o.output_type == "error" for o in c.outputs)), None)
        if n is None:  # a time-out leaves no error output: the first cell without a number did not end
            n = next((i for i, c in enumerate(code) if c.execution_count is None), len(code) - 1)
        what = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        raise RuntimeError(
            f"{chapter.relative_to(ROOT)}: code cell {n + 1} of {len(code)} failed\n\n{what}"
        ) from None
    return time.perf_counter() - begin


def execute_stale(profile: str, jobs: int) -> dict[str, float]:
    """Executes what is stale; returns the seconds of each chapter executed. Exits if one fails."""
    BUILD.mkdir(exist_ok=True)
    cache = get_cache(str(CACHE))
    known = json.loads(KEYS.read_text()) if KEYS.exists() else {}
    env = environment(profile)
    stale = []
    for chapter in chapters():
        notebook = read(chapter)
        chapter_key = key(notebook, env)
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            known.pop(chapter.stem, None)
        if known.get(chapter.stem) != chapter_key:
            stale.append((chapter, notebook, chapter_key))
    if not stale:
        print("Nothing to execute: every chapter is up to date.")
        return {}

    cores = os.cpu_count() or 1
    jobs = min(jobs, len(stale), cores)
    threads = max(1, cores // jobs)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    last = {row["chapter"]: float(row["seconds"]) for row in read_times(LAST_TIMES) or read_times(TIMES)}
    stale.sort(key=lambda s: -last.get(s[0].stem, 60.0))  # the longest first, so that none is left alone
    print(f"Executing {', '.join(s[0].stem for s in stale)}: {jobs} at a time, {threads} thread(s) each.")

    seconds, failures = {}, []
    with ThreadPoolExecutor(jobs) as pool, at_once(pool):
        running = {pool.submit(execute, chapter, nb): (chapter, nb, k) for chapter, nb, k in stale}
        for future in as_completed(running):
            chapter, notebook, chapter_key = running[future]
            try:
                seconds[chapter.stem] = future.result()
            except Exception as error:
                failures.append(
                    f"{error}" if isinstance(error, RuntimeError) else f"{chapter.name}: {error!r}"
                )
                print(f"  {chapter.stem} FAILED", flush=True)
                continue
            cache.cache_notebook_bundle(
                CacheBundleIn(notebook, str(chapter)), check_validity=False, overwrite=True
            )
            # Written after each chapter: an interrupted build goes on where it stopped.
            known[chapter.stem] = chapter_key
            write(KEYS, json.dumps(known, indent=1))
            write_times(LAST_TIMES, [time_row(chapter.stem, seconds[chapter.stem], threads, profile)])
            print(f"  {chapter.stem}: {duration(seconds[chapter.stem])}", flush=True)
    if failures:
        sys.exit("\nThe book was not built:\n\n" + "\n\n".join(failures))
    return seconds


@contextlib.contextmanager
def at_once(pool: ThreadPoolExecutor):
    """An interruption ends the program now, not when the running chapters end; kernels follow it."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            "\nInterrupted. Chapters that were finished are kept; `make book` goes on from here.", flush=True
        )
        pool.shutdown(wait=False, cancel_futures=True)
        os._exit(130)


def write(path: Path, text: str) -> None:
    """All of the file or, if interrupted, none of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf8")
    partial.replace(path)


def time_row(chapter: str, seconds: float, threads: int, profile: str) -> dict[str, str]:
    run = provenance()
    values = (
        chapter, f"{seconds:.1f}", str(threads), run["device"].removeprefix("cpu: "), str(os.cpu_count()),
        profile, run["python"], run["commit"], run["date"],
    )  # fmt: skip
    return dict(zip(TIME_COLUMNS, values, strict=True))


def write_times(path: Path, rows: list[dict[str, str]]) -> None:
    """Adds or replaces the rows of these chapters."""
    merged = {row["chapter"]: row for row in read_times(path) + rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, TIME_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(merged[name] for name in sorted(merged))


def build_pages() -> None:
    """Runs Jupyter Book, unless no source of a page has changed since it last succeeded."""
    sources = [
        ROOT / "_config.yml",
        ROOT / "_toc.yml",
        TIMES,
        *ROOT.glob("tools/*.py"),
        KEYS,
        *BOOK.glob("**/*"),
    ]
    state = digest(
        environment("pages"),
        *(file_digest(f) for f in sorted(sources) if f.is_file()),
    )
    if INDEX.exists() and PAGES_KEY.exists() and PAGES_KEY.read_text() == state:
        print("The pages are up to date.")
        return
    PAGES_KEY.unlink(missing_ok=True)
    shutil.rmtree(BUILD / "html", ignore_errors=True)  # a page that was renamed must not stay
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", str(ROOT), "-W", "--keep-going", "--all", "-q"]
    # --all: an incremental build forgets the warnings of the one before, and would pass.
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        sys.exit("\nThe book was not built: the warnings above are errors here.")
    write(PAGES_KEY, state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="chapters executed at the same time (2)")
    parser.add_argument("--record", action="store_true", help="copy the last times into data/results/")
    args = parser.parse_args()
    if args.record:
        write_times(TIMES, read_times(LAST_TIMES))
        print(f"Recorded in {TIMES.relative_to(ROOT)}: the pages and notebooks say so after the next build.")
        return
    os.environ["ATTNAD_STATIC"] = "1"
    os.environ["TQDM_DISABLE"] = "1"  # a progress bar is for someone who waits, not for a page
    profile = os.environ.setdefault("ATTNAD_PROFILE", "quick")
    begin = time.perf_counter()
    executed = execute_stale(profile, args.jobs)
    build_pages()
    print(f"\nTimes of the chapters (profile {profile}):")
    for row in read_times(LAST_TIMES):
        if (BOOK / f"{row['chapter']}.md").exists():
            now = "" if row["chapter"] in executed else f"  (unchanged since {row['date']})"
            print(f"  {row['chapter']:32} {float(row['seconds']):7.1f} s{now}")
    print(f"Everything took {duration(time.perf_counter() - begin)}.\n\nThe book is ready. Open {INDEX}")


if __name__ == "__main__":
    main()
