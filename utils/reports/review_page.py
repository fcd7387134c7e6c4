"""One HTML page to decide about suspects: it holds their photographs, keeps decisions, and hands out a relabel.csv.

The page is the template `review.html` with `review.css` and `review.js` beside this file. Here are its contents.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from utils.base.digests import digest_of
from utils.data.decoding import mosaic
from utils.data.relabel import COLUMNS, CORRECTED, REVIEWED, Decision
from utils.reports.template import data_url, write_page
from utils.review.suspects import DUPLICATE, IMAGE, LABEL, SWAPPED, TWO_PEOPLE, Suspect

CELL = 90, 120  # pixels of a small photograph; a large one has twice as many each way
AT_ONCE = 60  # suspects that the page opens with; others are laid out when they come near the screen
SHARP = 200  # suspects whose pictures have SHARPNESS times as many pixels each way: few people decide about more
SHARPNESS = 2
PAIRS = SWAPPED, DUPLICATE, TWO_PEOPLE  # kinds that two photographs tell of
DECISIONS = {"accept": "accepted", "reject": "rejected", "other": "another value", "unsure": "unsure"}


@dataclass(frozen=True)
class Head:
    """What stands above the suspects: a title, and `facts`, sentences on how they were found.

    `relabel` is where the file belongs that the page hands out. `storage` names the data set and the sweep: under it
    a browser keeps the decisions.
    """

    title: str
    facts: tuple[str, ...]
    relabel: Path
    storage: str


def write_review_page(path: Path, suspects: Sequence[Suspect], decided: Iterable[Decision], head: Head) -> Path:
    """Write the page to `path`, its rows in the order of the `suspects`.

    `decided` is what the relabel.csv says that was read, with ids spelt as in the suspects' corrections. The file that
    the page hands out has these rows too, but for those that a new decision replaces.

    Raises `InputError` for a photograph that cannot be decoded.
    """
    with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock alone
        cards = list(pool.map(card, suspects, range(1, len(suspects) + 1)))
    data = {
        "storage": f"review of {head.storage}",
        "columns": [*COLUMNS, "decision"],
        "decided": [astuple(one) for one in decided],
        "suspects": [written(one) for one in suspects],
    }
    contents = {
        "head": head,
        "cards": cards,
        "at_once": AT_ONCE,
        "kinds": Counter(one.kind for one in suspects),
        "attributes": Counter(one.attribute for one in suspects if one.attribute),
        "decisions": DECISIONS,
        "data": data,
    }
    return write_page(path, "review.html", contents)


def written(suspect: Suspect) -> dict:
    """The rows of relabel.csv that each decision writes, and a mark under which the decision is kept.

    The mark is of the suspect and of these rows: where another run suggests something else, nothing is decided yet.
    """
    rows = {
        "accept": [(*astuple(one), CORRECTED) for one in suspect.accept],
        "reject": [(*astuple(one), REVIEWED) for one in suspect.keep],
        "other": [(*astuple(one), CORRECTED) for one in suspect.instead],
        "unsure": [],
    }
    return {"mark": digest_of([suspect.key, rows]), "rows": rows}


def card(suspect: Suspect, number: int) -> dict:
    """What the page shows of a suspect, the `number`-th from 1."""
    large = min(2 if suspect.kind in PAIRS else 1, len(suspect.files))
    times = SHARPNESS if number <= SHARP else 1
    jpeg, (width, height) = mosaic(suspect.files, large, (times * CELL[0], times * CELL[1]))
    several = len({file.parent for file in suspect.files}) > 1
    return {
        "suspect": suspect,
        "number": number,
        "about": suspect.attribute if suspect.kind == LABEL else suspect.kind,
        "sure": min(99, round(100 * suspect.confidence)),  # nothing here is certain
        "changed": f"change to {suspect.suggested}" if suspect.kind == LABEL else "exchange the two",
        "kept": f"keep {suspect.given}" if suspect.kind == LABEL else "keep as given",
        "gap": (len(suspect.files) - large) % 2 == 1,
        "source": data_url(jpeg),
        "width": width // times,
        "height": height // times,
        "photographs": [
            {
                "name": f"{file.parent.name}/{file.stem}" if several else file.stem,
                "large": k < large,
                "in_question": k < large and suspect.unit == IMAGE,
            }
            for k, file in enumerate(suspect.files)
        ],
    }
