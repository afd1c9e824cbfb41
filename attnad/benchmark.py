"""Many runs, each recorded so that anyone can judge and repeat it: ``python -m attnad benchmark``.

A cell is one method with one attention on one category with one seed. A sweep runs cells on the cores of
this machine or on a Dask cluster, and writes after each of them, so that a killed sweep goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import joblib
from tqdm import tqdm

from attnad import datasets, profile
from attnad.attention import ATTENTION
from attnad.cells import Cell, attempt, begun, settings
from attnad.forecast import describe
from attnad.sizes import METHODS, PICTURES, SIZES
from attnad.tables import Table


def plan(
    methods: Sequence[str],
    attentions: Sequence[str] = ("none",),
    data: Sequence[str] = ("elpv/mono",),
    seeds: Iterable[int] = (0,),
    points: Sequence[str] = ("",),
    profile: str = "quick",
    options: dict | None = None,
    train: int | None = None,
    test: int | None = None,
) -> list[Cell]:
    """All cells of a sweep, those that share pictures and features next to each other.

    Args:
        methods: keys of `METHODS`.
        attentions: names of attention blocks, ``"none"`` for the control.
        data: ``"elpv/poly"``; ``"magnetic_tile"`` for a set's first category, ``"powerline/*"`` for all;
            what the set understands beyond that comes last, ``"powerline/vari_grip:clutter=0,scale=1.6"``.
        seeds, points, profile, options, train, test: see `Cell`. None takes the profile's `PICTURES`.

    Raises:
        ValueError: an unknown method, attention or profile, or an option that belongs to the cell.
        DataError: an unknown data set or category, or one that has no categories (your own folder).
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"there is no method {', '.join(unknown)}; there are: {', '.join(METHODS)}")
    unknown = [name for name in attentions if name not in ("none", *ATTENTION)]
    if unknown:
        has = ", ".join(("none", *ATTENTION))
        raise ValueError(f"there is no attention {', '.join(unknown)}; there are: {has}")
    taken = {"attention", "seed"} & set(options or {})  # the row would say something else than what was run
    if taken:
        raise ValueError(f"{', '.join(sorted(taken))} cannot be set: there is an argument of its own")
    if profile not in SIZES:
        raise ValueError(f"there is no profile {profile!r}; there are: {', '.join(SIZES)}")
    pairs = []
    for text in data:
        place, colon, knobs = text.partition(":")
        name, _, category = place.partition("/")
        if name not in datasets.SOURCES:
            raise datasets.DataError(
                f"There is no data set {name!r}; there are: {', '.join(datasets.SOURCES)}"
            )
        source = datasets.SOURCES[name]
        if not source.categories:
            raise datasets.DataError(f"{name} cannot be run by its name: there is python -m attnad train")
        categories = source.categories if category == "*" else (category or source.categories[0],)
        for each in categories:
            source.check_category(each)
            if knobs:  # before anything runs: are they there?
                _try_options(text, name, each, settings(knobs.split(",")))
            pairs.append((name, each + colon + knobs))
    most = PICTURES.get(profile, (0, 0))
    limits = (most[0] if train is None else train, most[1] if test is None else test)
    written = json.dumps(options or {}, sort_keys=True)
    cells = []
    for (name, category), attention, place in itertools.product(pairs, attentions, points):
        if attention == "none" and place != points[0]:
            continue  # without attention there is no place to vary
        for method, seed in itertools.product(methods, seeds):
            where = "" if attention == "none" else place
            cells.append(Cell(method, attention, where, name, category, seed, profile, written, *limits))
    return list(dict.fromkeys(cells))  # a name given twice is still one run


def _try_options(text: str, name: str, category: str, options: dict) -> None:
    """Raise ValueError if a data set does not take these options, or not these values."""
    taken = {"name", "category", "split", "size"} & set(options)
    if taken:
        raise ValueError(f"{text}: {', '.join(sorted(taken))} has no place there: a cell decides it")
    try:
        datasets.load(name, category, size=8, **options)
    except TypeError as error:
        raise ValueError(f"{text}: {error}") from error


def sweep(
    cells: Sequence[Cell],
    out: str | Path,
    jobs: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    checkpoints: str | Path | None = None,
) -> Table:
    """Run cells and record them.

    Args:
        cells: from `plan`.
        out: a CSV file; see `Table`.
        jobs: cells at a time on this machine.
        cluster: address of a Dask scheduler, e.g. ``"tcp://10.0.0.1:8786"``; its workers need this package
            and the data, the folder of checkpoints (one that all share), and one thread each, since random
            numbers belong to a process. A worker that dies has its cell run by another.
        resume: go on with a file that is there; cells in it are not run again, but for those that failed.
            A cell that was interrupted goes on from its last epoch, after all that were not begun.
        checkpoints: the folder that holds ``NAME_unfinished``, the checkpoints of cells in work; None for
            that of ``out``. One is written after each epoch and may be gigabytes: here a fast disk helps.
            A checkpoint goes when its cell is done; those of other cells than ``cells`` stay, and that of a
            cell that failed. One sweep at a time on one ``out``, and on one name in one such folder.

    Raises:
        BrokenProcessPool: one of several processes on this machine was killed from outside.
        FileExistsError: the file is there and ``resume`` is not set.
        ValueError: a worker of the cluster has several threads.
    """
    out = Path(out)
    if out.exists() and not resume:
        raise FileExistsError(f"{out} exists: use --resume to go on with it, or another --out")
    table = Table(out, cells)
    folder = (out.parent if checkpoints is None else Path(checkpoints)).absolute() / f"{out.stem}_unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:  # what a sweep of the same name left behind, perhaps by other code
        _forget(folder, cells)
    # One that took its process with it, say for lack of memory, must not do so again before the others ran.
    waiting = sorted(table.missing(), key=lambda cell: begun(_checkpoint(folder, cell)).exists())
    work = (joblib.delayed(attempt)(cell, _checkpoint(folder, cell)) for cell in waiting)
    with _workers(cluster, jobs) as parallel, tqdm(total=len(waiting), unit="cell", disable=None) as bar:
        for cell, outcome in parallel(work):
            table.add(cell, outcome)
            if not outcome.rows[0]["error"]:
                _forget(folder, [cell])
            bar.update()
            bar.write("\n  ".join([said(outcome.rows[0]), *outcome.warnings]), file=sys.stdout)
    left = table.missing()
    # Also of a cell that was recorded just before a sweep was killed.
    _forget(folder, [cell for cell in cells if cell not in left])
    with contextlib.suppress(OSError):  # not empty: a later sweep goes on with what is there
        folder.rmdir()
    return table


def _checkpoint(folder: Path, cell: Cell) -> Path:
    """In a folder of its own: a process that is killed while it writes leaves files of any name beside it."""
    return folder / str(joblib.hash(cell.name)) / "checkpoint.safetensors"


def _forget(folder: Path, cells: Iterable[Cell]) -> None:
    """Remove the checkpoints of these cells, and what stands beside each."""
    for cell in cells:
        shutil.rmtree(_checkpoint(folder, cell).parent, ignore_errors=True)


@contextlib.contextmanager
def _workers(cluster: str | None, jobs: int) -> Iterator[joblib.Parallel]:
    """joblib's workers: this machine's cores, or those of a Dask cluster. Each is sent one cell at a time."""
    if cluster is None:
        yield joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
        return
    from distributed import Client

    with Client(cluster) as client, joblib.parallel_config(backend="dask"):
        threaded = [address for address, threads in client.nthreads().items() if threads > 1]
        if threaded:  # random numbers, warnings and the cache of features belong to a process
            raise ValueError(f"start {', '.join(threaded)} with --nthreads 1: one cell for each process")
        yield joblib.Parallel(n_jobs=-1, batch_size=1, return_as="generator_unordered")


def said(row: dict) -> str:
    """One row in a line."""
    head = f"{row['method']}, {row['attention']}, {row['dataset']}/{row['category']}, seed {row['seed']}: "
    if row["error"]:
        return head + f"FAILED, {row['error']}"
    figures = (
        f"{name} {float(row[name]):.3f}" for name in ("image_auroc", "aupro") if str(row[name]) != "nan"
    )
    return head + ", ".join(figures) + f" ({float(row['seconds']):.0f} s)"


def cli(arguments: list[str]) -> int:
    """``python -m attnad benchmark``; returns the exit code: 1 if a cell failed."""
    parser = argparse.ArgumentParser(prog="python -m attnad benchmark", description=__doc__)
    parser.add_argument("--methods", nargs="+", required=True, metavar="NAME", help=", ".join(METHODS))
    parser.add_argument(
        "--attention", nargs="+", default=["none"], metavar="NAME", help="none, se, cbam, ..."
    )
    parser.add_argument("--points", nargs="+", default=[""], metavar="A+B", help="places, e.g. AB1 AB1+AB3")
    parser.add_argument(
        "--data", nargs="+", default=["elpv/mono"], metavar="SET/CATEGORY",
        help="* for all; options of the set behind a colon: powerline/vari_grip:clutter=0,scale=1.6",
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--profile", choices=SIZES, default=None, help="sizes (ATTNAD_PROFILE)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="arguments of the methods")
    parser.add_argument("--train", type=int, help="at most so many pictures to train on; 0: all")
    parser.add_argument("--test", type=int, help="at most so many pictures of each kind to test on; 0: all")
    parser.add_argument("--out", type=Path, help="CSV file; without it, only print")
    parser.add_argument("--resume", action="store_true", help="go on with --out where it stopped")
    parser.add_argument("--checkpoints", metavar="FOLDER", help="of cells in work (that of --out)")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time on this machine (1)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler, e.g. tcp://10.0.0.1:8786")
    parser.add_argument("--plan", action="store_true", help="say what would be run, and stop")
    given = parser.parse_args(arguments)
    if given.checkpoints and not given.out:
        parser.error("--checkpoints needs --out: it is the table that goes on from them")
    try:
        options = settings(given.set)
        cells = plan(
            given.methods, given.attention, given.data, given.seeds, given.points,
            given.profile or profile(), options, given.train, given.test,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            out = given.out or Path(scratch) / "benchmark.csv"
            said_before = describe(cells, Table(out, cells).missing(), given.jobs, estimate=given.plan)
            print(*said_before, sep="\n", flush=True)
            if given.plan:
                return 0
            table = sweep(cells, out, given.jobs, given.cluster, given.resume, given.checkpoints)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(
            "The process of a cell was killed, most often for lack of memory. What was done is recorded. Try "
            "fewer --jobs, with --resume: cells that were being run come last.",
            file=sys.stderr,
        )
        return 2
    failed = sum(any(row["error"] for row in table.rows[cell.command()]) for cell in cells)
    print(f"{len(cells) - failed} cells done, {failed} failed." + (f" See {out}" if given.out else ""))
    return 1 if failed else 0
