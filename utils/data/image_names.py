"""Which files are images, by their names alone; nothing here opens one, or imports what can."""

SUFFIXES = (".jpg", ".jpeg", ".png")
LEFT_BY_SYSTEMS = ("__MACOSX", "@eaDir")  # folders that macOS and Synology put beside the photographs


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: a dot file, or what the system left."""
    return name.startswith(".") or name in LEFT_BY_SYSTEMS
