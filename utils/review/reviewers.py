"""Who reviews the labels: all models of a sweep together, or one model, on people they have not learned from."""

from utils.base.errors import InputError
from utils.base.options import Options
from utils.data.splits import Split
from utils.ensembles.members import Way, read_parts
from utils.models.checkpoints import Checkpoint, check_members, check_whole, flipped
from utils.models.folded import read_ingredient
from utils.models.sweeps import asked_sweep


def read_reviewers(options: Options) -> tuple[str, list[Checkpoint]]:
    """What the files of a review are called by, and the models: that of `--model-name`, else the ingredients of the
    sweep. Raises `InputError` for models of other classes, or of different splits.
    """
    if options.model_name:
        model, _, _ = read_parts(Way(options.model_name), options, by_folds=True)
        check_whole(model)
        return model.name, [model]
    found = asked_sweep(options).ingredients
    models = [read_ingredient(one, options.mean, options.std, None, options.tower) for one in found]
    check_members(models[0], [], models[1:])
    return found[0].name, [flipped(one) for one in models] if options.flip else models


def scope_line(splits: list[Split], relabelled: int) -> str:
    """Whose labels can be reviewed, and how many of them are corrected already. Raises `InputError` when the models
    have learned the labels of those who are held out.
    """
    if splits[0].by == "image":
        raise InputError(
            "the split is by image, so that the models have learned the labels of these people from other "
            "photographs: review a sweep whose split is by person"
        )
    reviewed = {name for one in splits for name in one.held_out_ids}
    everybody = reviewed.union(splits[0].train_ids)
    changed = f"; relabel.csv has changed the labels of {relabelled} of their photographs" if relabelled else ""
    if len(splits) > 1:
        return f"all {len(reviewed)} people are reviewed, each by models that were trained without them{changed}"
    return (
        f"only the {len(reviewed)} held-out people of {len(everybody)} can be reviewed, since the models have learned "
        f"the labels of all others (models of finetune.py --folds 5 review everybody){changed}"
    )
