"""What is odd about photographs before they are trained on: classes too small to learn, copies across the split."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from utils.base.errors import InputError
from utils.data.hashes import BLOCK, SAME, bits_apart, difference_hashes
from utils.data.labels import Labelling
from utils.data.photographs import TRAIN, Photographs

SHOWN = 5  # classes that a warning names
EXAMPLES = 3  # pairs of copies that a warning names
COPY = 2 * SAME  # bits of their hashes in which copies differ at most
LIKE = 8.0  # of 255, by which the pixels of copies differ at most on average
MOST_HELD_OUT = 1000  # photographs whose copies are looked for


def check_classes(photographs: Photographs, labelling: Labelling) -> None:
    """Raise `InputError` when all photographs are of one class."""
    present = np.unique(photographs.labels(labelling))
    if len(present) == 1:
        raise InputError(
            f"all {len(photographs)} photographs in {photographs.folder} are of one class, "
            f"{labelling.classes[present[0]]!r}: there is nothing to tell apart; add photographs of another class"
        )


def check_learned(photographs: Photographs, labelling: Labelling, train: np.ndarray, held_out: np.ndarray) -> None:
    """Raise `InputError` when photographs that are told to be held out have a value that none to train on has."""
    if photographs.sides is None:
        return
    for part in labelling.parts:
        values = photographs.labels(labelling.only((part.name,)))
        if len(never := np.setdiff1d(values[held_out], values[train])):
            raise InputError(
                f"the {part.name} {part.values[never[0]]!r} is held out and never trained on: move some of its "
                f"photographs to the side {TRAIN}, or leave it out"
            )


def has_groups(photographs: Photographs) -> bool:
    """Whether it is told which photographs belong together."""
    return not np.array_equal(photographs.persons, photographs.ids)


def small_classes(photographs: Photographs, labelling: Labelling) -> str:
    """In words the classes with a single photograph, or with those of a single group, the smallest first; nothing when
    there are none.
    """
    labels = photographs.labels(labelling)
    images = np.bincount(labels, minlength=labelling.num_classes)
    groups = images
    if has_groups(photographs):
        pairs = np.unique(np.stack([labels, np.unique(photographs.persons, return_inverse=True)[1]]), axis=1)
        groups = np.bincount(pairs[0], minlength=labelling.num_classes)
    small = sorted(np.flatnonzero(groups == 1), key=lambda k: images[k])
    if not small:
        return ""
    told = [f"{labelling.classes[k]} ({images[k]})" for k in small[:SHOWN]]
    more = f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
    one = "group" if has_groups(photographs) else "image"
    return (
        f"{len(small)} of {labelling.num_classes} classes have a single {one}, which is trained on or held out, "
        f"never both (images in parentheses): {'; '.join(told)}{more}"
    )


def alike_names(labelling: Labelling) -> str:
    """In words the values of an attribute that differ in case, blanks or Unicode form alone; nothing when none do."""
    told = []
    for values in labelling.values.values():
        first = {}
        for value in values:
            same = first.setdefault(unicodedata.normalize("NFKC", " ".join(value.split())).casefold(), value)
            if same != value:
                told.append(f"{same!r} and {value!r}")
    if not told:
        return ""
    more = f" and {len(told) - EXAMPLES} more" if len(told) > EXAMPLES else ""
    return f"values are written nearly alike and count as classes of their own: {', '.join(told[:EXAMPLES])}{more}"


def copies(squares: Sequence[np.ndarray], held_out: np.ndarray, train: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows, of a held-out photograph and the training photograph that is nearly the same, the nearest first.

    They are alike in their hashes and in their pixels, as files are that were compressed or scaled again. `squares`
    are (S, S, 3) uint8 by row. Of many held-out photographs `MOST_HELD_OUT` are looked at, evenly spread, so that time
    grows with the number of photographs and not with its square: 0.2 to 0.5 ms each, nearly all of it to hash them.
    """
    if not len(held_out) or not len(train):
        return []
    if len(held_out) > MOST_HELD_OUT:
        held_out = held_out[np.linspace(0, len(held_out) - 1, MOST_HELD_OUT).round().astype(int)]
    hashes, others = (difference_hashes(squares[row] for row in rows) for rows in (held_out, train))
    found = []
    for start in range(0, len(held_out), BLOCK):
        apart = bits_apart(hashes[start : start + BLOCK, None], others)  # (B, T)
        nearest = apart.argmin(-1)
        for k in np.flatnonzero(apart.min(-1) <= COPY):
            row, other = int(held_out[start + k]), int(train[nearest[k]])
            unlike = float(np.abs(squares[row].astype(int) - squares[other]).mean())
            if unlike <= LIKE:
                found.append((int(apart[k].min()), unlike, row, other))
    return [(row, other) for *_, row, other in sorted(found)]


def told_copies(
    photographs: Photographs, squares: Sequence[np.ndarray], held_out: np.ndarray, train: np.ndarray
) -> str:
    """In words the copies of held-out photographs that are trained on; nothing when there are none, or when groups
    tell what belongs together.
    """
    if has_groups(photographs):
        return ""
    pairs = copies(squares, held_out, train)
    if not pairs:
        return ""
    shown = "; ".join(f"{photographs.files[row]} and {photographs.files[other]}" for row, other in pairs[:EXAMPLES])
    looked_at = min(len(held_out), MOST_HELD_OUT)
    return (
        f"{len(pairs)} of {looked_at} held-out images are nearly the same as one to train on, so that scores are too "
        f"good: {shown}{'; ...' if len(pairs) > EXAMPLES else ''}; tell which images belong together with "
        "--group-column, or --group-pattern for folders"
    )
