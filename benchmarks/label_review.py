"""What a review of labels finds: precision and recall among the first suspects, where wrong labels are known.

    cd RUN && python ../benchmarks/label_review.py --data-location faces --noise faces/noise.csv [--name noisy]

RUN is a folder with the models of a folded sweep that was trained on the wrong labels. `noise.csv` has the columns
`id,kind,true`: a person's leading id, `gender` and the right one, or `incorrect_mask<->normal` for two photographs
that were given each other's names. The review never sees it. Prints tables in Markdown.

Precision at k is the share of the first k suspects that are about a wrong label, recall the share of wrong people
among them, each counted once. Baselines list single photographs: the highest cross entropy of the 18 classes first,
and what cleanlab finds in the 18 classes, the lowest self-confidence first; and the same with each person once, by the
first of their photographs.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import validation
from utils.base import flags, runtime
from utils.base.options import Parser, run_name
from utils.base.tables import read_dicts
from utils.data.relabel import Decision, write_decisions
from utils.evaluation.people import read_people
from utils.review.finding import find_suspects
from utils.review.noise import judge_values
from utils.review.predictions import Predictions, log_odds, mean_log_probs
from utils.review.reviewers import read_reviewers
from utils.review.suspects import Suspect

FIRST = 10, 20, 40
REHEARSALS = 400
ABOVE = 0.9, validation.MORE_PROBABLY_THAN_NOT, 0.25
SWAP = "incorrect_mask<->normal"
SWAPPED_FILES = "incorrect_mask", "normal"


@dataclass(frozen=True)
class Wrong:
    """Who is labelled wrong: the right gender by a person's leading id, and whose two photographs are swapped."""

    genders: dict[str, str]
    swapped: set[str]

    def __len__(self) -> int:
        return len(self.genders) + len(self.swapped)

    def person(self, photograph: str) -> str | None:
        """The wrong person whose photograph this is, if what is wrong shows in it."""
        folder, _, stem = photograph.partition("/")
        name = folder.partition("_")[0]
        return name if name in self.genders or (name in self.swapped and stem in SWAPPED_FILES) else None

    def suspected(self, suspect: Suspect) -> str | None:
        """The wrong person whom a suspect is about, if it is about what is wrong."""
        name = suspect.id.partition("_")[0]
        wrong = self.genders if suspect.attribute == "gender" else self.swapped if suspect.attribute == "mask" else ()
        about = {one.id.partition("/")[2] for one in suspect.keep} - {""}
        return name if name in wrong and about <= set(SWAPPED_FILES) else None

    def mended(self, suspect: Suspect) -> bool:
        """Whether accepting a suspect mends all that is wrong with a person."""
        name = self.suspected(suspect)
        return name is not None and (len(suspect.accept) == 2 or suspect.suggested == self.genders.get(name))

    def corrections(self) -> list[Decision]:
        masks = zip(SWAPPED_FILES, ("not_worn", "incorrect"), strict=True)
        swapped = [Decision(f"{name}/{stem}", "mask", mask) for stem, mask in masks for name in sorted(self.swapped)]
        return [Decision(name, "gender", gender) for name, gender in self.genders.items()] + swapped


def read_noise(path: Path) -> Wrong:
    _, lines = read_dicts(path)
    rows = [row for _, row in lines]
    genders = {row["id"]: row["true"] for row in rows if row["kind"] == "gender"}
    return Wrong(genders, {row["id"] for row in rows if row["kind"] == SWAP})


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__, "label_review.py")
    parser.group("data").add_argument("--noise", type=Path, required=True, metavar="FILE.csv", help="who is wrong")
    parser.group("data").add_argument(
        "--corrections", type=Path, metavar="FILE.csv", help="write a relabel.csv that mends all that is wrong"
    )
    parser.group("which checkpoints").add_argument("--name", type=run_name, help="the sweep (default: the only one)")
    flags.add_locations(parser)
    asked = parser.parse(argv)
    wrong = read_noise(asked.noise)
    if asked.corrections:
        write_decisions(asked.corrections, wrong.corrections())
    same = {"data_location": asked.data_location, "model_location": asked.model_location, "name": asked.name}
    options = validation.parser().parse(["--review"]).replace(**same)
    accelerator, (_, models) = runtime.start_runtime("label_review", verbose=False), read_reviewers(options)
    people = read_people(accelerator, options, models)
    held_out = people.view(models[0])
    log_probs = mean_log_probs([people.view(one).logits(one) for one in models])
    predictions = Predictions(people.photographs, held_out.rows, log_probs, held_out.labelling)
    suspects, _ = find_suspects(predictions, held_out.squares_at, [])
    print("\n".join(tables(predictions, suspects, wrong)))
    print("\n".join(["", *ranks(predictions, wrong), "", *rehearsal(predictions, len(wrong.genders))]))


def tables(predictions: Predictions, suspects: Sequence[Suspect], wrong: Wrong) -> list[str]:
    def each_person_once(order: np.ndarray) -> np.ndarray:
        return order[np.sort(np.unique(predictions.persons[order], return_index=True)[1])]

    ways = {"review": [wrong.suspected(one) for one in suspects]}
    for name, order in baselines(predictions).items():
        ways[name] = [wrong.person(predictions.ids[row]) for row in order]
        ways[f"{name}, a person once"] = [wrong.person(predictions.ids[row]) for row in each_person_once(order)]
    given, log_probs = predictions.given["gender"], predictions.of_attribute("gender")
    by_loss = each_person_once(np.argsort(log_probs[np.arange(len(given)), given], kind="stable"))
    names = [predictions.ids[row].partition("_")[0] for row in by_loss]
    genders = {
        "review": [wrong.suspected(one) for one in suspects if one.attribute == "gender"],
        "highest loss of the gender, a person once": [name if name in wrong.genders else None for name in names],
    }
    masks = {"review": [wrong.suspected(one) for one in suspects if one.attribute == "mask"]}
    lines = ["All suspects:", "", *table(ways, len(wrong)), "", "Suspects of gender:", ""]
    lines += [*table(genders, len(wrong.genders)), "", "Suspects of masks:", "", *table(masks, len(wrong.swapped))]
    return [*lines, "", *accepted(suspects, wrong), "", *missed(predictions, suspects, wrong)]


def baselines(predictions: Predictions) -> dict[str, np.ndarray]:
    """Positions of photographs, the most suspicious first."""
    labels = predictions.photographs.labels(predictions.labelling)[predictions.rows]
    losses = -predictions.log_probs[np.arange(len(labels)), labels]
    probs = np.exp(predictions.log_probs)
    issues = find_label_issues(labels, probs, return_indices_ranked_by="self_confidence", n_jobs=1)
    return {
        "highest loss first": np.argsort(-losses, kind="stable"),
        "cleanlab, 18 classes of photographs": np.asarray(issues),
    }


def table(ways: dict[str, list[str | None]], total: int) -> list[str]:
    """Precision and recall among the first suspects; each way tells of each suspect which wrong person it is about."""
    heads = [f"{what} at {k}" for k in FIRST for what in ("precision", "recall")]
    lines = [f"| | suspects | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for name, found in ways.items():
        cells = []
        for k in FIRST:
            hits = [one for one in found[:k] if one]
            cells += [f"{len(hits)} of {len(found[:k])}", f"{len(set(hits))} of {total}"]
        lines.append(f"| {name} | {len(found)} | {' | '.join(cells)} |")
    return lines


def accepted(suspects: Sequence[Suspect], wrong: Wrong) -> list[str]:
    """What `--accept-above` does without having seen who is wrong."""
    heads = "accepted above", "suspects", "right by their confidence", "about what is wrong", "wrong people mended"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for least in ABOVE:
        some = [one for one in suspects if one.accept and one.confidence > least]
        about, mended = len([one for one in some if wrong.suspected(one)]), sum(map(wrong.mended, some))
        lines.append(f"| {least:g} | {len(some)} | {sum(one.confidence for one in some):.1f} | {about} | {mended} |")
    return lines


def missed(predictions: Predictions, suspects: Sequence[Suspect], wrong: Wrong) -> list[str]:
    """The people of wrong gender who are not among the first suspects of it, and how much the photographs look like
    what they are labelled.
    """
    heads = f"not among the first {FIRST[-1]} of gender", "labelled", "probability of that by the photographs"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    found = {wrong.suspected(one) for one in [one for one in suspects if one.attribute == "gender"][: FIRST[-1]]}
    groups, given, values = predictions.groups, predictions.given["gender"], predictions.labelling.values["gender"]
    mean = np.exp(groups.mean(predictions.of_attribute("gender")[np.arange(len(given)), given]))
    for k, name in enumerate(groups.names):
        if (person := name.partition("_")[0]) in set(wrong.genders) - found:
            lines.append(f"| {person} | {values[given[groups.members[k][0]]]} | {mean[k]:.2f} |")
    return lines


def gender_evidence(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U,) given genders of people, (U,) mean log-odds of the second against the first, and (U, 2) the highest loss of
    a photograph if either were the given one.
    """
    groups, log_probs = predictions.groups, predictions.of_attribute("gender")
    highest = np.stack([-log_probs[one].min(0) for one in groups.members])
    return groups.most_frequent(predictions.given["gender"]), groups.mean(log_odds(log_probs))[:, 0], highest


def ranks(predictions: Predictions, wrong: Wrong) -> list[str]:
    """How many people look less like the given gender than each who is labelled wrong, by the mean log-odds; and how
    many of these any ranking by it can have among the first, which knows best how to mix men and women.
    """
    given, odds, _ = gender_evidence(predictions)
    is_wrong = np.array([name.partition("_")[0] in wrong.genders for name in predictions.groups.names])
    against = np.where(given == 1, -odds, odds)
    found = is_wrong[np.argsort(-against, kind="stable")]
    right = ((against < 0) != is_wrong).mean()
    parts = [np.cumsum(is_wrong[given == k][np.argsort(-against[given == k], kind="stable")]) for k in (0, 1)]
    best = [max(_first(parts[0], k) + _first(parts[1], count - k) for k in range(count + 1)) for count in FIRST]
    places = ", ".join(str(k + 1) for k in np.flatnonzero(found))
    so_many = ", ".join(f"{found[:k].sum()} in {k}" for k in FIRST)
    at_best = ", ".join(f"{n} in {k}" for n, k in zip(best, FIRST, strict=True))
    return [
        f"By a person's mean log-odds of the gender, which are right of {right:.1%} of people, those who are labelled "
        f"wrong have the ranks {places}: {so_many}; no ranking with this evidence has more than {at_best}."
    ]


def _first(found: np.ndarray, count: int) -> int:
    """How many are found in `count` places, of cumulative counts."""
    return int(found[min(count, len(found)) - 1]) if count else 0


def rehearsal(predictions: Predictions, count: int, rounds: int = REHEARSALS) -> list[str]:
    """How many of `count` genders are among the first suspects that are turned round at random."""
    given, odds, highest = gender_evidence(predictions)
    persons, every, rng = predictions.groups.persons, np.arange(len(given)), np.random.default_rng(0)
    found = {"review": [], "mean log-odds": [], "highest loss of a photograph": []}
    for _ in range(rounds):
        turned = np.isin(every, rng.choice(len(given), count, replace=False))
        now = np.where(turned, 1 - given, given)
        judged = judge_values(odds[:, None], now, persons, 2)
        scores = judged.posterior[every, 1 - now], np.where(now == 1, -odds, odds), highest[every, now]
        for hits, score in zip(found.values(), scores, strict=True):
            hits.append(int(turned[np.argsort(-score, kind="stable")[: FIRST[-1]]].sum()))
    lines = [
        f"| of {count} turned round, among the first {FIRST[-1]} | mean | in 95 % of rehearsals |",
        "|---|---|---|",
    ]
    for name, hits in found.items():
        low, high = np.percentile(hits, [2.5, 97.5])
        lines.append(f"| {name} | {np.mean(hits):.1f} | {low:.0f} to {high:.0f} |")
    ahead = np.subtract(found["highest loss of a photograph"], found["review"])
    counts = ", ".join(f"{k} or more in {(ahead >= k).mean():.0%}" for k in (1, 2, 3))
    return [*lines, "", f"The highest loss has more of them than the review, {counts} of rehearsals."]


if __name__ == "__main__":
    main()
