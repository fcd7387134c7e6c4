"""Fine-tune one CLIP vision tower: one ingredient of a model soup.

    accelerate launch finetune.py --data-location data --pretrained-location pretrained --i 0

Reads the training photographs and `model_{i}.pt`; writes `model/{name}_seed{seed}_i{i}_epoch{epoch}.pt`, its held-out
logits in `logs/logits/` and pictures in `val_img/`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from utils import options as flags
from utils.errors import Diverged, run_script

if TYPE_CHECKING:
    from pathlib import Path

    from utils.metrics import Scores

BIAS = "classification_head.bias"

log = logging.getLogger("utils.finetune")  # under the project's own logger, whose level the runtime sets


def parser() -> flags.Parser:
    parser = flags.Parser(__doc__)
    flags.add_searched(parser)
    flags.add_training(parser)
    flags.add_labels(parser)
    flags.add_split(parser)
    flags.add_locations(parser)
    flags.add_loader(parser)
    flags.add_run(parser)
    return parser


def run(
    options: flags.Options,
    attributes: tuple[str, ...] = ("mask", "gender", "age"),
    prefix: str = "",
    after_epoch: Callable[[int, Scores], None] = lambda epoch, scores: None,
) -> tuple[Path, dict | None]:
    """Train one model on the classes that `attributes` make up; returns the last checkpoint's path and held-out
    scores.

    The scores are None when nobody is held out, and when the same run is there already they come from its record.
    `after_epoch` sees each epoch's held-out scores before anything of that epoch is saved, and may raise to end the
    run (a tuner does).
    """
    # torch and what builds on it take seconds to import, and --help should not wait for them
    import torch
    from torch.utils.data import DataLoader
    from tqdm import tqdm
    from transformers import get_cosine_schedule_with_warmup

    from utils import engine, losses, training
    from utils.checkpoints import as_saved, preprocessing, save_checkpoint
    from utils.clip import build
    from utils.data import read_photographs
    from utils.evaluation import EVALUATION_BATCH, HeldOut
    from utils.files import require_writable
    from utils.heads import head_family, sweep_head
    from utils.labels import Labelling
    from utils.splits import check_unseen, make_split
    from utils.start import read_start
    from utils.transforms import EpochSampler
    from utils.weights import digest

    # Runtime
    accelerator = engine.start(
        options.random_seed,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        log_with=None if options.report_to == "none" else options.report_to,
    )
    require_writable(options.model_location, flags.LOGS, flags.CACHE, flags.PICTURES)
    file_of = training.checkpoint_file(options, prefix)
    labelling = Labelling(attributes, options.age_limits)

    # Data
    start, anchor = read_start(options)
    photographs = read_photographs(options.data_location, options.relabel)
    split = make_split(photographs, options.val_ratio, options.split_seed, options.split_by)
    labels = photographs.labels(labelling)
    for weights in (start, anchor):
        if weights.meta is not None:
            check_unseen(split, weights.meta["split"], photographs, weights.source)
    recipe = preprocessing(start.config["image_size"])
    evaluation = options.replace(batch_size=EVALUATION_BATCH)  # as in main.py, whatever the training batch
    held_out = HeldOut(accelerator, photographs, split.held_out, labelling, recipe, evaluation, decode_all=True)
    family = head_family(
        anchor, labelling, options.head_init, split.digest, labels[split.train], held_out.squares.digest
    )
    record = training.record(options, start, family)
    saved_epochs = training.saved_epochs(options)
    done = [training.already_done(file_of(epoch), record, options.overwrite) for epoch in saved_epochs]
    if done[-1] is not None:
        log.info("%s is there already, trained with the same options: skipped", file_of(options.epochs))
        return file_of(options.epochs), done[-1]["scores"]
    log.info("%d photographs to train on, %d held out (split %s)", len(split.train), len(split.held_out), split.digest)
    train_set = training.train_set(held_out.squares, split.train, labels, labelling, options)
    if options.save_img and accelerator.is_main_process:
        log.info(
            "augmented photographs: %s", training.save_augmented(train_set, labelling, file_of(options.epochs).stem)
        )

    # Model
    def training_features():
        frozen = build(anchor.config, {**anchor.backbone(), **training.blank_head(anchor, labelling)}, anchor.source)
        features = held_out.predict(frozen, "probe", split.train, output="embed")
        return features, labels[split.train], photographs.persons[split.train]

    head = sweep_head(accelerator, anchor, family, labelling, training_features)
    adjustment = training.logit_adjustment(train_set, options, labelling.num_classes)
    head = {**head, BIAS: head[BIAS] - adjustment}  # the loss adds it again, so training starts from the same head
    model = build(start.config, {**start.backbone(), **head}, start.source)
    loss_fn = losses.make_loss(options.loss_fn, options.contrastive_weight, options.label_smoothing, adjustment)
    loader = DataLoader(
        train_set,
        batch_size=options.batch_size,
        sampler=EpochSampler(len(train_set), options.random_seed, training.sampling_weights(train_set, options)),
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=accelerator.device.type == "cuda",
        drop_last=len(train_set) >= options.batch_size * accelerator.num_processes,
    )
    optimizer = torch.optim.AdamW(training.parameter_groups(model, options.wd), lr=options.lr)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    steps = options.epochs * -(-len(loader) // options.gradient_accumulation_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(options.warmup_length, steps // 10), steps)
    if len(split.held_out):  # a broken evaluation fails now and not after the first epoch
        engine.predict(
            accelerator, model, held_out.squares, split.held_out[: 2 * EVALUATION_BATCH], recipe, EVALUATION_BATCH
        )

    # Loop
    scores = None
    with engine.tracker(accelerator, options, file_of(options.epochs).stem):
        for epoch in range(1, options.epochs + 1):
            model.train()
            loader.set_epoch(epoch)
            total_loss = torch.zeros((), device=accelerator.device)
            silent = None if accelerator.is_local_main_process else True  # None: a bar on a terminal only
            for pixel_values, targets in tqdm(loader, f"epoch {epoch}/{options.epochs}", disable=silent, leave=False):
                with accelerator.accumulate(model):
                    logits, features = model(pixel_values)
                    loss = loss_fn(logits, features, targets)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    if accelerator.sync_gradients:
                        schedule.step()
                    optimizer.zero_grad()
                total_loss += loss.detach()
            train_loss = accelerator.reduce(total_loss, "mean").item() / len(loader)
            if not math.isfinite(train_loss):
                raise Diverged(
                    f"training diverged in epoch {epoch} (loss {train_loss}): use a lower --lr than {options.lr}"
                )

            line = {"train_loss": train_loss, "lr": schedule.get_last_lr()[0]}
            if len(split.held_out):
                held_out_logits = held_out.predict(model)
                scores = held_out.score(held_out_logits)
                line |= scores.record()
            log.info("epoch %d: train loss %.4f, held out: %s", epoch, train_loss, scores or "nobody")
            accelerator.log(line, step=epoch)
            after_epoch(epoch, scores)
            if epoch in saved_epochs:
                meta = training.meta(options, start, family, held_out, split, scores, epoch)
                if accelerator.is_main_process:
                    state_dict = as_saved(accelerator.unwrap_model(model).state_dict())
                    if epoch == options.epochs and len(split.held_out):
                        held_out.keep(digest(state_dict), held_out_logits)
                        sheet = training.save_predictions(held_out, held_out_logits, file_of(epoch).stem)
                        engine.log_picture(accelerator, "held_out_predictions", sheet)
                        log.info("held-out predictions: %s", sheet)
                    save_checkpoint(file_of(epoch), state_dict, meta)  # the last file: with it the run is done
                accelerator.wait_for_everyone()

    # Result
    log.info("saved %s", file_of(options.epochs))
    return file_of(options.epochs), scores and scores.record()


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
