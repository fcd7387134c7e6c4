"""What a review of labels leaves: a table, a page to decide on, and with `--accept-above` corrections."""

import logging
from collections.abc import Callable

import numpy as np

from utils.base.options import Options
from utils.base.terminal import counted
from utils.data.relabel import read_claims, relabel_file
from utils.reports.review_page import Head, write_review_page
from utils.review import finding
from utils.review.predictions import Predictions
from utils.review.suspects import Suspect

log = logging.getLogger(__name__)


def write_review(
    name: str, predictions: Predictions, squares_at: Callable[[np.ndarray], np.ndarray], scope: str, options: Options
) -> list[Suspect]:
    """Find the suspects and write them to a table and a page, and accept those that are sure enough.

    `name` is what the files are called by, `scope` says whose labels are reviewed.
    """
    folder = predictions.photographs.folder
    path = relabel_file(predictions.photographs, options.relabel)
    claims = read_claims(predictions.photographs, path) if path else []
    suspects, decided = finding.find_suspects(predictions, squares_at, claims)
    facts = finding.fact_lines(suspects, decided)
    for line in facts:
        log.info(line)
    relabel, accepted, decisions = path or predictions.photographs.corrections, [], [one.decision for one in claims]
    if options.accept_above is not None:
        accepted, decisions = finding.accept_above(relabel, suspects, options.accept_above, claims)
        words = "accepted %s above %g, in %s: train under another --name with it"
        log.info(words, counted(len(accepted), "suspect"), options.accept_above, relabel)
    log.info("all of them: %s", finding.write_suspects(finding.suspects_file(name), suspects, accepted))
    head = Head(f"Labels to review: {name}", (scope, *facts), relabel, f"{folder.resolve()} {name}")
    undecided = [one for one in suspects if one not in accepted]
    page = write_review_page(finding.review_page(name), undecided, decisions, head)
    log.info("to decide about them open %s and put the relabel.csv that it makes at %s", page, relabel)
    return suspects
