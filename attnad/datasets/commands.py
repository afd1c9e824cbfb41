"""The command line of the data sets: ``python -m attnad data``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from attnad.datasets.download import VARIABLE, data_home, download, find_root
from attnad.datasets.images import DataError, MissingDataError
from attnad.datasets.report import check as report_on


def listing() -> str:
    """What there is, where, with counts and licences."""
    from attnad.datasets import SOURCES, elpv

    lines = [f"data folder: {data_home()} (set {VARIABLE} for another)", ""]
    for name, source in SOURCES.items():
        try:
            place = {"generated": "drawn when asked for", "own": "yours: root=FOLDER"}.get(source.kind)
            place = place or str(elpv.package_folder() if name == "elpv" else find_root(source))
        except MissingDataError:
            place = f"not here; {source.how}"
        lines += [f"{name:14s} {source.title}", f"{'':14s} licence: {source.licence}; size: {source.size}"]
        lines += [f"{'':14s} {place}"]
        for category, (train, good, bad) in source.counts.items():
            lines.append(
                f"{'':16s} {category}: {train} to train on, {good} + {bad} anomalous to test (published)"
            )
    return "\n".join(lines)


def cli(args: list[str]) -> int:
    """``python -m attnad data list | get NAME | check FOLDER``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m attnad data", description="Data sets: list, get, check.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is, where, and under which licence")
    get = commands.add_parser("get", help="download a data set, or unpack one")
    get.add_argument("name")
    get.add_argument("--archive", type=Path, help="a zip or tar file that you have already")
    get.add_argument(
        "--home", type=Path, help=f"the folder of all data (default: {VARIABLE}, or ~/attnad_data)"
    )
    check = commands.add_parser("check", help="what is in a folder of your own, and what looks wrong")
    check.add_argument("folder", type=Path)
    check.add_argument("--category")
    options = parser.parse_args(args)
    try:
        if options.command == "list":
            print(listing())
        elif options.command == "get":
            print(f"{options.name} is in {download(options.name, options.home, options.archive)}")
        else:
            report = report_on(options.folder, options.category)
            print(report)
            return 1 if report.problems else 0
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
