"""What macro-F1, by which the task is ranked, would have chosen where the published accuracy did."""

from utils.base.metrics import METRICS
from utils.soups.evaluator import Evaluator
from utils.soups.recipes import Soup, greedy

OTHER = "macro_f1"


def other_choice(evaluator: Evaluator, chosen: Soup) -> str:
    """The greedy search once more, by macro-F1, in one line; nothing is saved but its journal, and the ingredients'
    logits are known.
    """
    other = Evaluator(evaluator.held_out, evaluator.ingredients, OTHER, evaluator.journals)
    other.begin("greedy")
    mixture, title = greedy(other), METRICS[OTHER].title
    if mixture.digest == chosen.mixture.digest:
        return f"{title} would have chosen the same greedy soup"
    best = max(step.score for step in other.steps if step.accepted)
    return (
        f"{title} would have chosen a greedy soup of {len(mixture.members)}, with {title} {float(best):.4f} instead "
        f"of {float(other.score(chosen.logits)):.4f}: --metric {OTHER} makes it, in place of this one"
    )
