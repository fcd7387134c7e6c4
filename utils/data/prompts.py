"""What CLIP's text tower is told of each class, for a zero-shot head: of any classes, or as a file says."""

from pathlib import Path

from utils.base.errors import InputError
from utils.base.tables import read_dicts
from utils.data import competition
from utils.data.labels import BETWEEN, Attribute, Labelling, own_class

COLUMNS = ["class", "prompt"]
TEMPLATES = (  # after those of Radford et al. 2021, "Learning transferable visual models", section 3.1.4
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "a blurry photo of a {}.",
    "a bright photo of a {}.",
    "a photo of one {}.",
)
BARE = ("yes", "no", "true", "false")  # values that say nothing without the name of their attribute


def default_prompts(labelling: Labelling) -> list[list[str]]:
    """For each class its sentences: the competition's own for its attributes, else every template with the names of
    the class's values, those of several attributes together.
    """
    return competition.prompts(labelling) or [
        [template.format(_described(labelling, class_id)) for template in TEMPLATES]
        for class_id in range(labelling.num_classes)
    ]


def _described(labelling: Labelling, class_id: int) -> str:
    values = labelling.decode(class_id)
    several = len(labelling.parts) > 1
    return BETWEEN.join(_value(part, int(values[part.name]), several) for part in labelling.parts)


def _value(part: Attribute, index: int, several: bool) -> str:
    name, value = (text.replace("_", " ") for text in (part.name, part.values[index]))
    bare = part.limits is not None or (several and (value.lower() in BARE or value.isdecimal()))
    return f"{name} {value}" if bare else value


def read_prompts(path: Path, labelling: Labelling, whole: Labelling) -> list[list[str]]:
    """For each class the sentences of a CSV `class,prompt`, which may have several rows of a class.

    For a specialist the file may as well tell the classes of the `whole`: a class of its own has the sentences of all
    that fall under it. Raises `InputError` that names the line of a class that there is not, and a class without a
    prompt.
    """
    columns, lines = read_dicts(path)
    if sorted(columns) != COLUMNS:
        raise InputError(f"--prompts {path} has the columns {','.join(columns)}, expected {','.join(COLUMNS)}")
    named = {row["class"].strip() for _, row in lines}
    told = labelling if named <= set(labelling.classes) else whole
    found = {name: [] for name in told.classes}
    for number, row in lines:
        name, sentence = row["class"].strip(), row["prompt"].strip()
        if name not in found:
            shown = "; ".join(told.classes[:5]) + ("; ..." if told.num_classes > 5 else "")
            raise InputError(f"--prompts {path} line {number}: there is no class {name!r}, only {shown}")
        if not sentence:
            raise InputError(f"--prompts {path} line {number}: {name} has a blank prompt: fill it in, or drop the row")
        found[name].append(sentence)
    missing = [name for name, sentences in found.items() if not sentences]
    if missing:
        more = f" and {len(missing) - 1} other classes" if len(missing) > 1 else ""
        raise InputError(f"--prompts {path} has no prompt for {missing[0]!r}{more}: add a row for each class")
    if told is labelling:
        return list(found.values())
    merged = [[] for _ in labelling.classes]
    for own, sentences in zip(own_class(told, labelling), found.values(), strict=True):
        merged[own] += sentences
    return merged
