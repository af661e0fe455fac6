"""Writing that never leaves half a file: write aside, then rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from mktopt.errors import DataError, Fault


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to `path` in one step; raises DataError where the folder cannot be written."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            os.chmod(aside, 0o666 & ~_umask())
            os.replace(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_write(path, error) from None


def write_folder(folder: str | Path, fill: Callable[[Path], None], own: Iterable[str] = ()) -> None:
    """Lets `fill` write into a new folder beside `folder`, then moves its files over in one rename each.

    Where `folder` does not exist the whole folder appears in one rename. Raises DataError where it cannot be
    written; nothing is then left behind and an older folder stays as it was. own: files that go where `fill` does not
    write them anew, since they would be taken for parts of what it wrote.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(20, "it is a file", str(folder))
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(folder))
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            fill(aside)
            if folder.is_dir():
                names = sorted(file.name for file in aside.iterdir())
                for name in names:
                    os.replace(aside / name, folder / name)
                for name in set(own) - set(names):
                    (folder / name).unlink(missing_ok=True)
            else:
                os.chmod(aside, 0o777 & ~_umask())
                os.rename(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(Fault(str(path), f"cannot be written: {reason}", hint="choose a folder that you may write to"))
