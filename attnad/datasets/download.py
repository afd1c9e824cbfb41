"""Where data sets live, how they get there, and the command line ``python -m attnad data``."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

from attnad.datasets.base import Source
from attnad.datasets.images import DataError, MissingDataError

VARIABLE = "ATTNAD_DATA"


def data_home() -> Path:
    """The folder of all downloaded data: the environment variable ``ATTNAD_DATA``, or ``attnad_data`` at
    home."""
    return Path(os.environ.get(VARIABLE) or Path.home() / "attnad_data").expanduser()


def plain(name: str) -> str:
    """A folder's name without case, dashes, underscores and blanks: people spell categories in many ways."""
    return "".join(c for c in name.lower() if c.isalnum())


def find_root(source: Source, root: str | Path | None = None) -> Path:
    """The folder of a data set: ``root`` if given, else the folder of its name in `data_home`.

    Raises:
        MissingDataError: it is not there; the message says how to get it.
    """
    if root is not None:
        if Path(root).is_dir():
            return Path(root)
        raise MissingDataError(f"{root}: no such folder. To get {source.name}: {source.how}")
    home = data_home()
    for folder in sorted(home.iterdir()) if home.is_dir() else []:
        if folder.is_dir() and plain(folder.name) == plain(source.name):
            return folder
    raise MissingDataError(
        f"{source.name} is not in {home} (the environment variable {VARIABLE} chooses another folder). "
        f"To get it: {source.how}"
    )


def find_category(root: Path, category: str, source: Source) -> Path:
    """The folder of a category in ``root`` or up to two folders below it, however it is spelt.

    Raises:
        MissingDataError: it is not there.
    """
    level = [root]
    for _ in range(3):
        inner = [p for folder in level for p in sorted(folder.iterdir()) if p.is_dir()]
        for folder in inner:
            if plain(folder.name) == plain(category):
                return folder
        level = inner
    raise MissingDataError(f"{root}: no folder for {category!r} in it. To get {source.name}: {source.how}")


def download(name: str, home: str | Path | None = None, archive: str | Path | None = None) -> Path:
    """Gets a data set into its folder, which appears only when it is complete.

    Args:
        name: a key of `attnad.datasets.SOURCES`.
        home: the folder of all data; `data_home` if None.
        archive: a zip or tar file that you have already; nothing is downloaded then.

    Returns:
        The folder of the data set.

    Raises:
        DataError: there is no such data set, or its archive is broken or unsafe.
        MissingDataError: it cannot be had without you; the message says what to do.
    """
    from attnad.datasets import SOURCES

    if name not in SOURCES:
        raise DataError(f"There is no data set {name!r}; there are: {', '.join(SOURCES)}")
    source = SOURCES[name]
    target = Path(home or data_home()) / name
    if target.exists():
        raise DataError(f"{target} exists already; remove or rename it to get {name} again")
    if archive is None and source.fetch is None:
        raise MissingDataError(f"{name} cannot be downloaded by a program. Instead: {source.how}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Everything happens in a folder beside the target, so that an interrupted run leaves nothing half done.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as temporary:
        work = Path(temporary) / "data"
        if archive is not None:
            extract(Path(archive), work)
        elif source.fetch and source.fetch[0] == "git":
            _clone(source, source.fetch[1], work)
        elif source.fetch:
            kept = target.parent / f"{name}.download"  # outside the temporary folder: gdown resumes from it
            _drive(source, source.fetch[1], kept)
            extract(kept, work)
            kept.unlink()
        work.rename(target)
    return target


def _clone(source: Source, address: str, target: Path) -> None:
    if shutil.which("git") is None:
        raise MissingDataError(
            f"git is not installed. Install it, or download {source.url} as a zip file and add --archive FILE"
        )
    command = ["git", "clone", "--depth", "1", "--progress", address, str(target)]
    if subprocess.run(command, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"}).returncode:
        raise MissingDataError(f"git could not clone {address}; is there a network? See {source.url}")


def _drive(source: Source, number: str, target: Path) -> None:
    try:
        import gdown
    except ImportError:
        raise MissingDataError(f"This needs gdown (pip install gdown). Or: {source.how}") from None
    try:
        found = gdown.download(id=number, output=str(target), resume=True)
    except Exception as error:  # gdown passes on whatever its many libraries raise
        raise MissingDataError(f"Google Drive did not answer ({error}). Instead: {source.how}") from None
    if not found:
        raise MissingDataError(f"Google Drive did not give the file. Instead: {source.how}")


def extract(archive: Path, target: Path) -> None:
    """Unpacks a zip or tar file into ``target``, nothing outside it, no links, no devices.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not an archive, is broken, or holds something that would land outside.
    """
    if not archive.is_file():
        raise MissingDataError(f"{archive}: no such file")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for item in file.infolist():
                    _check_name(archive, item.filename)
                    if (item.external_attr >> 16) & 0o170000 == 0o120000:
                        raise DataError(f"{archive}: {item.filename!r} is a link; links are not unpacked")
                file.extractall(target)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                for member in tar.getmembers():
                    _check_name(archive, member.name)
                    if not (member.isfile() or member.isdir()):
                        raise DataError(
                            f"{archive}: {member.name!r} is a link or a device; such are not unpacked"
                        )
                    member.mode = 0o755 if member.isdir() else 0o644
                # Names and kinds are checked above; the filter (from Python 3.12, backported) checks again.
                tar.extractall(target, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # type: ignore[arg-type]
        else:
            raise DataError(f"{archive}: neither a zip nor a tar file; download it again")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, OSError) as error:
        raise DataError(
            f"{archive}: cannot be unpacked ({error}); download it again, and see that the disk has room"
        ) from None
    target.mkdir(exist_ok=True)


def _check_name(archive: Path, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or (parts[0].endswith(":") and len(parts[0]) == 2):
        raise DataError(f"{archive}: {name!r} would be written outside the target; the archive is not safe")
