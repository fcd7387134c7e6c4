"""Predict the test photographs with one checkpoint and write the submission.

    accelerate launch inference.py --model-name model/finetune_cp_seed42_epoch20_greedysoup_num8.pt

Reads `eval/info.csv` and `eval/images/` (or any folder of images); writes `output/output_{model}.csv` and, with
`--save-probs`, the probabilities beside it. Without `--model-name` it takes the only greedy soup in `model/`.
"""

import logging
from pathlib import Path

from utils import options as flags
from utils.errors import InputError, run_script

log = logging.getLogger("utils.inference")  # under the project's own logger, whose level the runtime sets


def parser() -> flags.Parser:
    parser = flags.Parser(__doc__)
    parser.add_argument("--model-name", help="checkpoint: a path, or a name in the model folder")
    parser.add_argument("--output-dir", type=Path, default=Path("output"), help="folder of the submission")
    parser.add_argument("--save-probs", action="store_true", help="also write the probabilities, ImageID,p0..p17")
    flags.add_locations(parser)
    flags.add_loader(parser, "images per step and process")
    flags.add_preprocessing(parser)
    return parser


def run(options: flags.Options) -> Path:
    """Write the submission; returns its path."""
    import numpy as np

    from utils import engine, submissions
    from utils.checkpoints import find_checkpoint, read_checkpoint
    from utils.clip import build
    from utils.data import read_test_images
    from utils.files import require_writable
    from utils.images import FileImages
    from utils.metrics import log_softmax

    # Runtime
    accelerator = engine.start()
    require_writable(options.output_dir)

    # Data
    path = find_checkpoint(options.model_name, options.model_location)
    checkpoint = read_checkpoint(path, options.mean, options.std)
    if checkpoint.labelling.num_classes != 18:
        raise InputError(
            f"{path} is an age specialist of {checkpoint.labelling.num_classes} classes, not a model of 18"
        )
    test = read_test_images(options.data_location)
    log.info("%d images of %s, model %s", len(test.files), test.folder, path)

    # Model
    model = build(checkpoint.weights.config, checkpoint.weights.state_dict, path.name)

    # Loop
    logits = engine.predict(
        accelerator,
        model,
        FileImages(test.folder, test.files, checkpoint.preprocessing["size"]),
        np.arange(len(test.files)),
        checkpoint.preprocessing,
        options.batch_size,
        options.workers,
        "predicting",
    )
    preds = logits.argmax(-1)

    # Result
    output = options.output_dir / f"output_{checkpoint.name}.csv"
    if accelerator.is_main_process:
        submissions.write(output, test, preds)
        if options.save_probs:
            probs = output.with_name(f"{output.stem}_probs.csv")
            log.info("probabilities: %s", submissions.write_probs(probs, test, np.exp(log_softmax(logits))))
    accelerator.end_training()
    log.info("saved %s (%d rows)", output, len(preds))
    return output


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
