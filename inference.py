"""Predict the test photographs with one checkpoint and write the submission.

    accelerate launch inference.py --model-name model/finetune_cp_seed42_epoch20_greedysoup_num8.pt

Reads `eval/info.csv` and `eval/images/` (or any folder of images); writes `output/output_{model}.csv` and, with
`--save-probs`, the probabilities beside it. Without `--model-name` it takes the only greedy soup in `model/`; with
`--ensemble logs/ensemble_NAME.json` it predicts with the members, weights, temperature and bias of that file. With
`--demo` it writes nothing and shows a page that answers one photograph at a time.
"""

import logging
from pathlib import Path

from utils import options as flags
from utils.errors import InputError, run_script

log = logging.getLogger("utils.inference")  # under the project's own logger, whose level the runtime sets


def parser() -> flags.Parser:
    parser = flags.Parser(__doc__)
    flags.add_model_name(parser)
    flags.add_ensembles(parser, one_only=True)
    parser.add_argument("--no-bias", action="store_true", help="with --ensemble: leave its bias per class out")
    parser.add_argument("--output-dir", type=Path, default=flags.OUTPUT, help="folder of the submission")
    parser.add_argument("--save-probs", action="store_true", help="also write the probabilities, ImageID,p0..p17")
    flags.add_locations(parser)
    flags.add_loader(parser, "images per step and process")
    flags.add_preprocessing(parser)
    flags.add_demo(parser)
    return parser


def run(options: flags.Options) -> Path | None:
    """Write the submission; returns its path, or None after `--demo`."""
    flags.refuse_beside_ensemble(options, "model_name", "soft_voting_rule", "flip")
    if options.no_bias and not options.ensemble:
        raise InputError("--no-bias leaves the bias of an ensemble out: give --ensemble")
    own = "data_location", "output_dir", "save_probs", "batch_size", "workers"
    flags.refuse_beside_demo(options, parser().parse([]), *own)

    import numpy as np

    from utils import chosen, engine, ensembles, page, submissions
    from utils.checkpoints import Checkpoint, find_checkpoint
    from utils.clip import build
    from utils.data import read_test_images
    from utils.files import require_writable
    from utils.images import FileImages

    # Runtime
    accelerator = engine.start()
    if options.demo:
        page.check_ready(accelerator)
    else:
        require_writable(options.output_dir)

    # Models
    if options.ensemble:
        ensemble = chosen.read_chosen(options.ensemble, options)
    else:
        path = find_checkpoint(options.model_name, options.model_location)
        ensemble = ensembles.read_ensemble(path, options)
    if options.demo:
        return page.serve(accelerator, ensemble, options.demo)

    # Data
    test = read_test_images(options.data_location)
    log.info("%d images of %s, %s", len(test.files), test.folder, ensemble.name)

    # Loop
    def predict(checkpoint: Checkpoint) -> np.ndarray:
        """(N, C) logits of the test images."""
        return engine.predict(
            accelerator,
            build(checkpoint.config, checkpoint.state_dict(), checkpoint.path.name),
            FileImages(test.folder, test.files, checkpoint.preprocessing["size"]),
            np.arange(len(test.files)),
            checkpoint.preprocessing,
            options.batch_size,
            options.workers,
            f"predicting with {checkpoint.name}",
        )

    scores = ensemble.combine([predict(one) for one in ensemble.members])

    # Result
    preds = scores.argmax(-1)
    output = options.output_dir / f"output_{ensemble.name}.csv"
    if accelerator.is_main_process:
        submissions.write_submission(output, test.columns, [list(row.values()) for row in test.rows], preds)
        if options.save_probs:
            probs = ensembles.as_probs(scores, ensemble.rule)
            saved = submissions.write_probs(output.with_name(f"{output.stem}_probs.csv"), test.files, probs)
            log.info("probabilities: %s", saved)
    accelerator.end_training()
    log.info("saved %s (%d rows)", output, len(preds))
    return output


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
