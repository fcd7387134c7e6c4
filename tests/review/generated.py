"""Predictions of models that never were, of people whose labels are known to be right or wrong."""

from pathlib import Path

import numpy as np

from utils.data import competition
from utils.data.competition import GENDERS, GROUP_ATTRIBUTES
from utils.data.photographs import Photographs
from utils.evaluation.scores import log_softmax
from utils.review.predictions import Predictions

STEMS = ("incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5", "normal")  # as they are sorted
MASKS = np.array([1, 0, 0, 0, 0, 0, 2])
LABELLING = competition.labelling()


def looks(genders: np.ndarray, ages: np.ndarray, masks: np.ndarray, seed: int, strength: float = 4.0) -> np.ndarray:
    """(7 G, 18) log-probabilities of photographs of G people: (7 G,) genders and masks, and ages in years, with which
    the odds of the age groups change smoothly.
    """
    rng = np.random.default_rng(seed)
    people = len(genders) // 7
    of_person = np.repeat(rng.normal(0, 1, people), 7), np.repeat(rng.normal(0, 6, people), 7)
    gender = strength * (2 * genders - 1) + of_person[0] + rng.normal(0, 1, len(genders))
    gender -= 1.5 * (masks == 0)  # a mask makes everybody look more like a man
    years = ages + of_person[1] + rng.normal(0, 3, len(genders))
    parts = [
        strength * np.eye(3)[masks] + rng.normal(0, 0.7, (len(masks), 3)),
        np.stack([-gender / 2, gender / 2], axis=1),
        np.stack([(30 - years) / 4, np.zeros(len(years)), (years - 60) / 4], axis=1),
    ]
    mask, gender, age = map(log_softmax, parts)
    return (mask[:, :, None, None] + gender[:, None, :, None] + age[:, None, None, :]).reshape(len(masks), 18)


def photographs_of(genders: list[int], ages: list[int], folder: Path = Path("data/train/images")) -> Photographs:
    """Seven photographs of each person."""
    names = np.array([f"{k:06d}_{GENDERS[g]}_Asian_{a}" for k, (g, a) in enumerate(zip(genders, ages, strict=True))])
    folders, stems = np.repeat(names, 7), np.tile(STEMS, len(names))
    ids = np.char.add(np.char.add(folders, "/"), stems)
    masks, gender, age = np.tile(MASKS, len(names)), np.repeat(genders, 7), np.repeat(ages, 7)
    strata = LABELLING.encode(mask=masks, gender=gender, age=LABELLING["age"].index(age))
    values, nothing = {"mask": masks, "gender": gender, "age": age}, np.zeros(len(ids), bool)
    files = np.char.add(ids, ".jpg")
    return Photographs(
        folder, files, ids, folders, folders, LABELLING, values, GROUP_ATTRIBUTES, strata, relabelled=nothing
    )


def people(count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Genders and ages of people, in turn."""
    every = np.arange(count)
    return every % 2, 20 + (every * 7) % 50


def predictions_of(photographs: Photographs, log_probs: np.ndarray) -> Predictions:
    return Predictions(photographs, np.arange(len(photographs)), log_probs, LABELLING)
