"""What a user did wrong, said in one line."""

import os
import sys
import time
import unicodedata


class InputError(ValueError):
    """A mistake of the user's: bad data, a bad value, a bad combination. The message names it and the remedy."""


class Diverged(InputError):
    """Training went to infinity under the options given."""


class NoRoom(InputError):
    """Not even the smallest piece of the work fits into memory."""


class Interrupted(KeyboardInterrupt):
    """A signal to stop came, and what was done is saved; the first argument is the signal's number."""


def run_script(main) -> None:
    """Call a script's `main`; a user's mistake or a failing disk becomes one line on stderr and exit code 1.

    Any other exception is a defect of ours and keeps its traceback. When several processes run the same check they
    all fail at once, so the others wait a moment and leave the line to the first one.
    """
    try:
        main()
    except (InputError, OSError) as error:
        if int(os.environ.get("RANK", "0")) > 0:
            time.sleep(2)
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        sys.exit(1)
    except Interrupted as stop:
        number, message = stop.args
        if int(os.environ.get("RANK", "0")) == 0:
            print(visible(message), file=sys.stderr, flush=True)
        sys.exit(128 + number)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)


def visible(text: object) -> str:
    """Text with control characters, which could move a terminal's cursor or hide what stands there, shown as `\\x1b`;
    line breaks and tabs stay. So are shown the bytes of a file's name that are no UTF-8, which nothing could print.
    """
    return "".join(one if one in "\n\t" or _is_shown(one) else ascii(one)[1:-1] for one in str(text))


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of all widths


def one_line(error: Exception) -> str:
    """The message without line breaks; an operating-system error keeps its reason and its file."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return visible(f"{error.strerror}{where}").replace("\n", "\\n")
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Caught "):  # a loader process sends its whole traceback along
        lines = [lines[-1].partition("InputError: ")[2] or lines[-1]]
    return visible(" ".join(" ".join(lines).split()))
