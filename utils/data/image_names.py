"""Which files are images, by their names alone; nothing here opens one, or imports what can."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png")
LEFT_BY_SYSTEMS = ("__MACOSX", "@eaDir")  # folders that macOS and Synology put beside the photographs


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: a dot file, or what the system left."""
    return name.startswith(".") or name in LEFT_BY_SYSTEMS


def images_below(folder: Path) -> Iterator[Path]:
    """The images below a folder, relative to it, in whatever order. Hidden ones are left out, and links are followed
    but those to a folder that they are in. A link to nothing is one of them, so that whoever opens it names it.
    """
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not hidden(name) and not _leads_up(Path(path, name))]
        for name in files:
            inside = Path(path, name).relative_to(folder)
            if inside.suffix.lower() in SUFFIXES and not hidden(name):
                yield inside


def _leads_up(path: Path) -> bool:
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())
