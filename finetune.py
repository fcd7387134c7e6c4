"""Fine-tune one CLIP vision tower: one ingredient of a model soup.

    accelerate launch finetune.py --data-location data --pretrained-location pretrained --i 0

Reads the training photographs and `model_{i}.pt`; writes `model/{name}_seed{seed}_i{i}_epoch{epoch}.pt`, its held-out
logits in `logs/logits/` and pictures in `val_img/`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from utils import options as flags
from utils import training_options
from utils.errors import InputError, run_script

if TYPE_CHECKING:
    from pathlib import Path

BIAS = "classification_head.bias"

log = logging.getLogger("utils.finetune")  # under the project's own logger, whose level the runtime sets


def parser() -> flags.Parser:
    parser = flags.Parser(__doc__)
    training_options.add_searched(parser)
    training_options.add_training(parser)
    flags.add_labels(parser)
    flags.add_split(parser)
    flags.add_locations(parser)
    flags.add_loader(parser)
    flags.add_cache(parser)
    training_options.add_run(parser)
    return parser


def check(options: flags.Options) -> None:
    """Raise `InputError` for options that contradict each other."""
    mixing = next((flag for flag in ("mixup", "half_cutmix") if getattr(options, flag)), None)
    scored = {"--keep best": options.keep == "best", "--patience": options.patience, "--keep-top": options.keep_top}
    if not options.val_ratio and any(scored.values()):
        asked = next(flag for flag, given in scored.items() if given)
        raise InputError(f"{asked} goes by held-out scores, and --val-ratio 0 leaves nobody to score on")
    if mixing and options.loss_fn == "ContrastiveLoss":
        raise InputError(
            f"--loss-fn ContrastiveLoss needs one label per photograph: leave out --{mixing.replace('_', '-')}"
        )


def run(
    options: flags.Options,
    attributes: tuple[str, ...] = ("mask", "gender", "age"),
    prefix: str = "",
    after_epoch: Callable[[int, dict], None] = lambda epoch, scores: None,
) -> tuple[Path, dict | None]:
    """Train one model on the classes that `attributes` make up; returns the checkpoint's path and held-out scores.

    The scores are None when nobody is held out, and when the same run is there already they come from its record.
    `after_epoch` sees each epoch's held-out scores before anything of that epoch is saved, and may raise to end the
    run (a tuner does); a resumed run shows it the earlier epochs first.
    """
    # torch and what builds on it take seconds to import, and --help should not wait for them
    import torch
    from torch.utils.data import DataLoader
    from transformers import get_cosine_schedule_with_warmup

    from utils import engine, exports, losses, training
    from utils.checkpoints import differences, save_checkpoint
    from utils.files import require_writable
    from utils.history import draw_history, save_history
    from utils.labels import Labelling
    from utils.states import State, read_state, state_file
    from utils.trainable import averaged, class_weights, parameter_groups, trainable
    from utils.transforms import EpochSampler, normalised
    from utils.variations import varied
    from utils.watch import watched
    from utils.weights import digest

    # Runtime
    check(options)
    asked, options = options, varied(options)
    drawn = differences(asked.as_dict(), options.as_dict())
    options = training.rehearsal(options, prefix)
    accelerator = engine.start_training(options)
    if drawn:
        log.info("index %d draws its own recipe: %s", options.i, drawn)
    require_writable(options.model_location, flags.LOGS, flags.CACHE, flags.PICTURES)
    if options.push_to_hub:
        exports.require_hub(options.push_to_hub)
    file_of = training.checkpoint_file(options, prefix)
    final = file_of(options.epochs)

    # Data
    task = training.read_task(accelerator, options, asked.epochs, Labelling(attributes, options.age_limits))
    held_out, recipe = task.held_out, task.preprocessing
    saved_epochs = training.saved_epochs(options)
    done = [training.already_done(file_of(epoch), task.record, options.overwrite) for epoch in saved_epochs]
    if done[-1] is not None:
        there = "is there already" if final.is_file() else "was removed by --keep-top"
        log.info("%s %s, trained with the same options: skipped", final, there)
        if accelerator.is_main_process and final.is_file():
            state_file(final).unlink(missing_ok=True)
            training.publish(options, final, not prefix)
        return final, done[-1]["scores"]
    record = task.record | {"processes": accelerator.num_processes}
    stored = read_state(state_file(final), record, options)
    train_set = training.train_set(task, options)
    log.info(
        "%d photographs to train on, %d held out (split %s)", len(train_set), len(held_out.rows), task.split.digest
    )
    if options.save_img and accelerator.is_main_process:
        log.info("augmented photographs: %s", training.save_augmented(train_set, task.labelling, final.stem))

    # Model
    head = training.starting_head(accelerator, task)
    weights = class_weights(train_set.labels, options.class_weights, task.labelling.num_classes)
    adjustment = training.logit_adjustment(train_set, options, task.labelling.num_classes, weights)
    head = {**head, BIAS: head[BIAS] - adjustment}  # the loss adds it again, so training starts from the same head
    bare = trainable(accelerator, task.start, head, options)
    ema = averaged(bare, options.ema_decay)
    shown = ema.module if ema else bare  # whose weights are evaluated and saved
    of_loss = options.loss_fn, options.contrastive_weight, options.label_smoothing
    loss_fn = losses.make_loss(*of_loss, adjustment, weights, accelerator.device)
    batch_size = engine.fitting_batch_size(accelerator, bare, options)
    workers = engine.loader_workers(accelerator, options.workers)
    per_batch = batch_size * accelerator.num_processes
    per_step = options.batch_size * options.gradient_accumulation_steps * accelerator.num_processes
    training.check_steps(train_set, per_step, per_step // options.batch_size)
    drawn_by = training.sampling_weights(train_set, options)
    sampler = EpochSampler(len(train_set), options.random_seed, drawn_by, per_step)
    loader = DataLoader(
        train_set,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=engine.linger,
        persistent_workers=workers > 0,
        pin_memory=accelerator.device.type == "cuda",
    )
    groups = parameter_groups(bare, options.lr, options.wd, options.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=True)
    if options.compile:
        bare.compile()
    model, optimizer, loader = accelerator.prepare(bare, optimizer, loader)
    steps = options.epochs * -(-len(loader) // accelerator.gradient_accumulation_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(options.warmup_length, steps // 10), steps)
    if len(held_out.rows):  # a broken evaluation fails now and not after the first epoch
        engine.predict(accelerator, bare, held_out.squares, held_out.rows[:2], recipe, batch_size=1)

    # Loop
    parts = {"model": bare, "optimizer": optimizer, "schedule": schedule, "ema": ema, "scaler": accelerator.scaler}
    state = State(state_file(final), record, accelerator, parts)
    progress = state.load(stored)
    del stored  # and with it the file that is mapped

    def photographs_of(epoch: int, first: int, last: int) -> str:
        return training.images_in(task, train_set, sampler.order(epoch)[first:last])

    for row in progress.history:
        after_epoch(row["epoch"], row)
    tracker = engine.tracker(accelerator, options, final.stem, progress.tracker)
    with tracker, watched(state, progress, options.checkpointing_steps, photographs_of) as watch:
        while not training.finished(progress, options):
            model.train()
            loader.set_epoch(progress.epoch)
            first, begin = progress.seen, time.perf_counter()
            sampler.skip = first
            total_loss = torch.as_tensor(progress.total_loss, device=accelerator.device).clone()
            seen, what = first, f"epoch {progress.epoch}/{options.epochs}"
            for squares, targets, *ages in engine.bar(accelerator, loader, what, first // per_batch):
                seen = min(seen + per_batch, len(sampler))
                with accelerator.accumulate(model):
                    logits, features = model(normalised(squares, recipe["mean"], recipe["std"]))
                    loss = loss_fn(logits, features, targets)
                    if ages:
                        predicted = bare.age_regression(features.float())[:, 0]
                        loss = loss + options.age_regression * torch.nn.functional.smooth_l1_loss(predicted, ages[0])
                    accelerator.backward(loss)
                    total_loss += loss.detach() * len(targets)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
                        watch.before_step(seen, total_loss if accelerator.scaler else norm)
                    optimizer.step()
                    if accelerator.sync_gradients:
                        schedule.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    if ema:
                        ema.update_parameters(bare)
                    progress.step_done(seen, total_loss)
                    watch.after_step()
            watch.save()  # before the evaluation, which may take long
            speed = f", {(seen - first) / (time.perf_counter() - begin):.1f} images/s" if seen > first else ""

            row = {"epoch": progress.epoch, "step": progress.step, "lr": schedule.get_last_lr()[-1]}
            row["train_loss"] = accelerator.reduce(total_loss, "sum").item() / progress.seen
            if len(held_out.rows):
                held_out_logits = held_out.predict(shown)
                scores = held_out.score(held_out_logits)
                row |= scores.record()
                progress.note_best(row, options.metric, shown if options.keep == "best" else None)
            told = scores if len(held_out.rows) else "nobody"
            log.info("epoch %d: train loss %.4f%s, held out: %s", row["epoch"], row["train_loss"], speed, told)
            accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=row["epoch"])
            after_epoch(row["epoch"], row)
            progress.epoch_done(row)
            if accelerator.is_main_process and options.report_to != "none":
                history = save_history(final.stem, progress.history)
            if accelerator.is_main_process and row["epoch"] in saved_epochs[:-1]:
                save_checkpoint(file_of(row["epoch"]), training.saved_tensors(shown), training.meta(task, row))

        # Result
        if options.keep == "best" and progress.best.get("epoch", row["epoch"]) != row["epoch"]:
            shown.load_state_dict(progress.best["weights"])
            row = progress.history[progress.best["epoch"] - 1]
            held_out_logits = held_out.predict(shown)
            log.info(
                "kept epoch %d of %d: %s %.4f", row["epoch"], progress.epoch - 1, options.metric, row[options.metric]
            )
        if accelerator.is_main_process:
            state_dict = training.saved_tensors(shown)
            if len(held_out.rows):
                held_out.keep(digest(state_dict), held_out_logits)
                sheet = training.save_predictions(held_out, held_out_logits, final.stem)
                engine.log_picture(accelerator, "held_out_predictions", sheet)
                log.info("held-out predictions: %s", sheet)
            if options.report_to != "none":
                log.info("epochs: %s, %s", history, draw_history(final.stem, progress.history))
            save_checkpoint(final, state_dict, training.meta(task, row))  # the last file: with it the run is done
            state.path.unlink(missing_ok=True)
        accelerator.wait_for_everyone()
    if options.fast_dev_run:
        log.info("fast dev run: everything works; no checkpoint is kept")
        return final, training.scores_of(row)
    log.info("saved %s", final)
    if accelerator.is_main_process:
        training.publish(options, final, not prefix)
    return final, training.scores_of(row)


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
