"""Draw a synthetic data set of faces in the competition's layout: the photographs of the embedded demo.

    python demo/faces.py demo_run/data

Writes `train/images/{id}_{gender}_Drawn_{age}/` with seven pictures of each person, `eval/info.csv`, `eval/images/`
and `eval_truth.csv` (`ImageID,ans,person`, for scoring only). The same arguments draw the same faces, byte for byte,
under the same versions of numpy and Pillow.

A face shows its age by grey hair, wrinkles and a receding hairline, its gender by hair, jaw, brows, lips and beard;
each of these overlaps between the classes, as in life, so that the classes can be learned but not perfectly. Units: a
face is 2 wide and about 2.6 high around (0, 0), y points down; colours are RGB from 0 to 255.
"""

import argparse
import csv
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from joblib import cpu_count
from PIL import Image, ImageDraw, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.base.errors import InputError, run_script
from utils.base.files import atomic
from utils.data import competition
from utils.data.competition import GENDERS

WIDTH, HEIGHT = 96, 128  # pixels
SUPERSAMPLING = 3  # drawn this much larger and scaled down, for smooth edges
STEMS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
SKINS = ((255, 224, 196), (241, 194, 156), (222, 170, 130), (190, 135, 95), (141, 92, 62), (98, 62, 42))
HAIRS = ((25, 20, 18), (60, 40, 25), (95, 62, 35), (150, 100, 55), (200, 160, 95))
MASKS = {
    "white": (240, 240, 238),
    "blue": (120, 170, 215),
    "black": (35, 35, 40),
    "pink": (240, 170, 185),
    "green": (95, 150, 110),
    "grey": (150, 150, 155),
}
GREY, WHITE, MOUTH_RED = (205, 205, 208), (250, 250, 250), (176, 60, 66)


@dataclass(frozen=True)
class Person:
    """What stays the same in all pictures of one person; shares run from 0 to 1."""

    gender: int  # indexes GENDERS
    age: int  # years
    skin: tuple
    hair: tuple
    grey: float  # share of grey in the hair
    wrinkles: float
    hair_length: float  # 0 cropped, 1 below the shoulders
    hairline: float  # 0 low, 1 receded
    jaw: float  # 0 narrow, 1 wide
    brows: float  # thickness
    lips: float  # redness
    beard: float  # 0 shaven
    glasses: bool
    shirt: tuple


def make_person(rng: np.random.Generator, gender: int, age: int) -> Person:
    """A person whose looks follow from gender and age, with the scatter of real people."""
    years = age + rng.normal(0, 2.5)  # as old as one looks
    short_haired = rng.random() < (0.88, 0.22)[gender]
    dyed = rng.random() < 0.08
    return Person(
        gender=gender,
        age=age,
        skin=_mix(SKINS[rng.integers(len(SKINS))], SKINS[rng.integers(len(SKINS))], rng.random()),
        hair=_mix(HAIRS[rng.integers(len(HAIRS))], HAIRS[rng.integers(len(HAIRS))], rng.random()),
        grey=0.0 if dyed else _clip((years - 36) / 30 + rng.normal(0, 0.1)),
        wrinkles=_clip((years - 22) / 46 + rng.normal(0, 0.05)),
        hair_length=_clip(rng.normal(0.15 if short_haired else 0.8, 0.12)),
        hairline=_clip((years - 30) / 45 + rng.normal(0, 0.12)) * (1.0, 0.2)[gender],
        jaw=_clip(rng.normal((0.68, 0.34)[gender], 0.16)),
        brows=_clip(rng.normal((0.7, 0.35)[gender], 0.16)),
        lips=_clip(rng.normal((0.25, 0.7)[gender], 0.2)),
        beard=rng.uniform(0.3, 1) if gender == 0 and rng.random() < 0.4 else 0.0,
        glasses=bool(rng.random() < 0.15 + 0.3 * (age >= 45)),
        shirt=tuple(int(c) for c in rng.integers(30, 230, 3)),
    )


def draw(person: Person, stem: str, rng: np.random.Generator) -> tuple[Image.Image, dict]:
    """One picture of a person, and what varies in it: `mask` (a colour or None) and how it is `worn`.

    `stem` is one of `STEMS`; pose, light and the mask come from `rng`.
    """
    mask = list(MASKS)[rng.integers(len(MASKS))] if stem != "normal" else None
    worn = {"normal": "none", "incorrect_mask": ("below the nose", "on the chin")[rng.integers(2)]}.get(stem, "worn")
    image = Image.new("RGB", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING), _background(rng))
    pen = _Pen(image, rng)
    _draw_body(pen, person)
    _draw_face(pen, person)
    if mask:
        _draw_mask(pen, MASKS[mask], worn)
    _draw_front_hair(pen, person)
    return _photograph(image, rng), {"mask": mask, "worn": worn}


class _Pen:
    """Draws in face units, under one picture's pose."""

    def __init__(self, image: Image.Image, rng: np.random.Generator):
        self.draw = ImageDraw.Draw(image)
        self.scale = image.width * rng.normal(0.265, 0.012)  # pixels a unit
        self.x, self.y = image.width * rng.normal(0.5, 0.02), image.height * rng.normal(0.47, 0.015)
        tilt = rng.normal(0, 0.06)
        self.cos, self.sin = math.cos(tilt), math.sin(tilt)

    def polygon(self, points: list, fill: tuple) -> None:
        self.draw.polygon(self._placed(points), fill=fill)

    def line(self, points: list, fill: tuple, width: float) -> None:
        self.draw.line(self._placed(points), fill=fill, width=max(1, round(width * self.scale)), joint="curve")

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: tuple) -> None:
        self.polygon(arc(x, y, rx, ry, 0, 360), fill)

    def _placed(self, points: list) -> list:
        return [
            (
                self.x + self.scale * (self.cos * x - self.sin * y),
                self.y + self.scale * (self.sin * x + self.cos * y),
            )
            for x, y in points
        ]


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list:
    """Points of an ellipse around (x, y), angles in degrees, clockwise from the right."""
    return [(x + rx * cos, y + ry * sin) for cos, sin in _directions(start, end)]


@cache
def _directions(start: float, end: float) -> list:
    """(cos, sin) of 33 angles from `start` to `end` degrees."""
    return [(math.cos(a), math.sin(a)) for a in np.radians(np.linspace(start, end, 33))]


def _draw_body(pen: _Pen, person: Person) -> None:
    hair = _hair(person)
    if person.hair_length > 0.35:  # falls behind the shoulders
        bottom = 0.2 + 2.0 * person.hair_length
        pen.polygon([*arc(0, -0.35, 1.22, 1.2, 180, 360), (1.18, bottom), (-1.18, bottom)], hair)
    shade = _mix(person.skin, (0, 0, 0), 0.18)
    pen.polygon([(-0.42, 0.8), (0.42, 0.8), (0.5, 1.9), (-0.5, 1.9)], shade)
    pen.polygon([(-2.0, 2.6), *arc(0, 2.2, 1.7, 0.62, 180, 360), (2.0, 2.6)], person.shirt)


def _draw_face(pen: _Pen, person: Person) -> None:
    skin, jaw = person.skin, 0.66 + 0.24 * person.jaw
    dark = _mix(skin, (40, 15, 5), 0.4)
    for side in (-1, 1):
        pen.ellipse(side * 1.0, 0.05, 0.13, 0.26, _mix(skin, (120, 40, 20), 0.15))
    pen.polygon(
        [*arc(0, -0.2, 1.0, 1.1, 180, 360), (0.98, 0.3), (jaw, 0.85), (0.36, 1.28), (-0.36, 1.28), (-jaw, 0.85),
         (-0.98, 0.3)], skin,
    )  # fmt: skip
    if person.beard:
        hairy = _mix(skin, _hair(person), 0.35 + 0.5 * person.beard)
        pen.polygon(
            [(-0.95, 0.35), (-0.55, 0.5), (0, 0.42), (0.55, 0.5), (0.95, 0.35), (jaw, 0.86), (0.36, 1.3), (-0.36, 1.3),
             (-jaw, 0.86)], hairy,
        )  # fmt: skip
    _draw_wrinkles(pen, person, _mix(skin, (50, 20, 10), 0.25 + 0.5 * person.wrinkles))
    for side in (-1, 1):
        x = 0.42 * side
        pen.ellipse(x, 0.0, 0.2, 0.11, WHITE)
        pen.ellipse(x, 0.0, 0.09, 0.1, (45, 30, 20))
        pen.line(arc(x, 0.02, 0.22, 0.14, 200, 340), dark, 0.035)
        brow = _mix(_hair(person), (20, 15, 10), 0.4)
        pen.line([(x - 0.24, -0.25), (x, -0.33), (x + 0.24, -0.25)], brow, 0.04 + 0.1 * person.brows)
        if person.glasses:
            pen.line(arc(x, 0.0, 0.31, 0.24, 0, 360), (40, 40, 45), 0.04)
    if person.glasses:
        pen.line([(-0.11, 0.0), (0.11, 0.0)], (40, 40, 45), 0.04)
    pen.line([(-0.05, 0.0), (-0.15, 0.42), (0.0, 0.48), (0.13, 0.42)], _mix(skin, (60, 25, 10), 0.35), 0.045)
    lips = _mix(_mix(skin, (130, 70, 60), 0.5), MOUTH_RED, person.lips)
    pen.ellipse(0, 0.76, 0.3, 0.07 + 0.04 * person.lips, lips)
    pen.line([(-0.3, 0.76), (0, 0.78), (0.3, 0.76)], _mix(lips, (0, 0, 0), 0.45), 0.025)


def _draw_wrinkles(pen: _Pen, person: Person, ink: tuple) -> None:
    """The older, the more and the darker: forehead, eyes, then the folds beside nose and mouth."""
    for k in range(round(4 * person.wrinkles)):
        y = -0.5 - 0.13 * k
        pen.line([(-0.5, y), (-0.2, y - 0.03), (0.2, y - 0.03), (0.5, y)], ink, 0.045)
    for side in (-1, 1):
        for k in range(round(4 * person.wrinkles)):
            pen.line([(side * 0.68, 0.0), (side * 0.9, -0.14 + 0.1 * k)], ink, 0.04)
        if person.wrinkles > 0.35:
            pen.line(arc(side * 0.42, 0.1, 0.22, 0.13, 20, 160), ink, 0.05)  # bags under the eyes
        if person.wrinkles > 0.5:
            pen.line([(side * 0.22, 0.42), (side * 0.42, 0.62), (side * 0.46, 0.86)], ink, 0.05)


def _draw_front_hair(pen: _Pen, person: Person) -> None:
    """The cap of hair over the forehead; a receding hairline leaves it bare, from the temples on."""
    hair, line = _hair(person), -0.62 - 0.42 * person.hairline
    outer = arc(0, -0.3, 1.1, 1.18, 188, 352)
    inner = [(0.93, -0.45), (0.72, line - 0.12 * person.hairline), (0.0, line), (-0.72, line - 0.12 * person.hairline)]
    pen.polygon([*outer, *inner, (-0.93, -0.45)], hair)
    if person.hair_length > 0.35:
        for side in (-1, 1):
            bottom = 2.0 * person.hair_length
            strand = [(1.1, -0.5), (0.9, -0.45), (0.97, 0.5), (1.0, bottom), (1.25, bottom)]
            pen.polygon([(side * x, y) for x, y in strand], hair)


def _draw_mask(pen: _Pen, colour: tuple, worn: str) -> None:
    top = {"worn": 0.22, "below the nose": 0.56, "on the chin": 0.88}[worn]
    low = 1.36 if worn == "worn" else 1.42
    edge = _mix(colour, (60, 60, 70), 0.3)
    for side in (-1, 1):
        pen.line([(side * 0.8, top + 0.12), (side * 1.0, 0.02)], edge, 0.035)
        pen.line([(side * 0.72, 0.98), (side * 1.0, 0.2)], edge, 0.035)
    right = [(0.3, top), (0.86, top + 0.1), (0.74, 1.02), (0.34, low)]
    shape = [(0, top - 0.06), *right, *((-x, y) for x, y in reversed(right))]
    pen.polygon(shape, colour)
    pen.line([*shape, shape[0]], edge, 0.03)
    for k in range(1, 3):
        y = top + (low - top) * k / 3
        pen.line([(-0.66, y), (0, y + 0.04), (0.66, y)], edge, 0.022)


def _photograph(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """What a camera adds: scaling, light from a side, blur, noise."""
    small = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.9)))
    pixels = np.asarray(small, np.float32)
    slope = np.linspace(-1, 1, WIDTH)[None, :, None] * rng.normal(0, 0.08)
    pixels = (pixels - 128) * rng.normal(1, 0.08) + 128 + rng.normal(0, 10)
    pixels = pixels * (1 + slope) * (1 + rng.normal(0, 0.03, 3)) + rng.normal(0, 5, pixels.shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _background(rng: np.random.Generator) -> tuple:
    return tuple(int(c) for c in rng.integers(90, 235, 3))


def _hair(person: Person) -> tuple:
    return _mix(person.hair, GREY, person.grey)


def _mix(one: tuple, other: tuple, share: float) -> tuple:
    """A colour between two, at `share` of the way."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def _clip(value: float) -> float:
    return float(min(1.0, max(0.0, value)))


AGE_RANGES, AGE_SHARES = ((18, 29), (30, 59), (60, 82)), (0.42, 0.38, 0.2)


def people(count: int, seed: int) -> list[tuple[Person, np.random.Generator]]:
    """`count` people, each with the generator of their pictures; the first n are the same whatever the count."""
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        low, high = AGE_RANGES[rng.choice(3, p=AGE_SHARES)]
        found.append((make_person(rng, int(rng.integers(2)), int(rng.integers(low, high + 1))), rng))
    return found


def write_data_set(folder: Path, train: int = 200, test: int = 500, seed: int = 0) -> None:
    """Draw `train` people to learn from and `test` others to predict, seven pictures each, in the layout above."""
    (folder / "train" / "images").mkdir(parents=True, exist_ok=True)
    (folder / "eval" / "images").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(cpu_count()) as pool:  # each person has a generator of their own: in any order the same
        list(pool.map(lambda one: _draw_train(folder / "train", *one), enumerate(people(train, seed))))
        rows = list(pool.map(lambda one: _draw_test(folder / "eval", *one), enumerate(people(test, seed + 1))))
    rows = sorted((row for rows_of_one in rows for row in rows_of_one), key=lambda row: row["ImageID"])
    _write_csv(folder / "eval" / "info.csv", ["ImageID", "ans"], [{**row, "ans": 0} for row in rows])
    _write_csv(folder / "eval_truth.csv", ["ImageID", "ans", "person"], rows)  # last: with it the set is whole


def _draw_train(folder: Path, number: int, drawn: tuple[Person, np.random.Generator]) -> None:
    person, rng = drawn
    place = folder / "images" / f"{number + 1:06d}_{GENDERS[person.gender]}_Drawn_{person.age}"
    place.mkdir(exist_ok=True)
    for stem in STEMS:
        draw(person, stem, rng)[0].save(place / f"{stem}.jpg", quality=92)


def _draw_test(folder: Path, number: int, drawn: tuple[Person, np.random.Generator]) -> list[dict]:
    """The rows of the right answers of one person."""
    person, rng = drawn
    rows = []
    for stem in STEMS:
        name = f"{rng.bytes(8).hex()}.jpg"
        draw(person, stem, rng)[0].save(folder / "images" / name, quality=92)
        mask = {"normal": 2, "incorrect_mask": 1}.get(stem, 0)
        known = competition.labelling()
        label = int(known.encode(mask=mask, gender=person.gender, age=known["age"].index(person.age)))
        rows.append({"ImageID": name, "ans": label, "person": f"drawn{number:04d}"})
    return rows


def check_only_drawn(folder: Path) -> None:
    """Raise `InputError` when a folder holds photographs of others, which drawn ones must not be mixed with."""
    people = folder / "train" / "images"
    strangers = sorted(path.name for path in people.glob("*") if "_Drawn_" not in path.name)
    if strangers or ((folder / "eval" / "info.csv").exists() and not people.exists()):
        raise InputError(
            f"{folder} holds other photographs ({(strangers or ['eval/info.csv'])[0]}): name a new folder"
        )


def _write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the data set goes")
    parser.add_argument("--train", type=int, default=200, help="people to train on")
    parser.add_argument("--test", type=int, default=500, help="people to predict")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    check_only_drawn(options.folder)
    write_data_set(options.folder, options.train, options.test, options.seed)
    print(f"drew {7 * options.train} photographs to train on and {7 * options.test} to predict: {options.folder}")


if __name__ == "__main__":
    run_script(main)
