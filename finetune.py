"""Fine-tune one CLIP vision tower: one ingredient of a model soup.

    accelerate launch finetune.py --data-location data --pretrained-location pretrained --i 0

Reads the training photographs and `model_{i}.pt`; writes `model/{name}_seed{seed}_i{i}_epoch{epoch}.pt`, its held-out
logits in `logs/logits/` and pictures in `val_img/`. With `--attributes mask` it trains a specialist of some of several
attributes, `model/Mask_{name}_...`, for `--weighted-ensemble`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from utils.base import training_flags
from utils.base.errors import run_script
from utils.base.options import ALL_FOLDS, Options, Parser

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from accelerate import Accelerator

    from utils.training.job import Job
    from utils.training.records import RunFiles
    from utils.training.resume_state import Progress

log = logging.getLogger("utils.finetune")  # under the project's own logger, whose level the runtime sets


def parser() -> Parser:
    return training_flags.finetune_parser(__doc__, "finetune.py")


def run(
    options: Options, after_epoch: Callable[[int, dict], None] = lambda epoch, scores: None
) -> tuple[Path, dict | None]:
    """Train one model; returns the checkpoint's path and held-out scores.

    The scores are None when nobody is held out, and when the same run is there already they come from its record.
    `after_epoch` sees each epoch's held-out scores before anything of that epoch is saved, and may raise to end the
    run (a tuner does); a resumed run shows it the earlier epochs first.
    """
    from utils.training import grid, preflight

    preflight.check_run(options)
    # torch and what builds on it take seconds to import, and neither --help nor a mistake should wait for them
    from utils.base.files import CACHE, LOGS, PICTURES, require_writable
    from utils.models.checkpoints import differences
    from utils.models.exports import require_hub
    from utils.training import records, setup
    from utils.training.index_options import options_of_run
    from utils.training.resume_state import read_state
    from utils.training.task import read_task

    # Runtime
    asked, options = options, options_of_run(options)
    drawn = differences(asked.plain, options.plain)
    options = records.fast_dev_run_options(options)
    files = records.RunFiles(options)
    accelerator = setup.start_training(options, files.log_name)
    if drawn:
        why = "with its own options" if options.fold != ALL_FOLDS else "on everyone, for about as many steps as a fold"
        log.info("%s trains %s: %s", files.stem, why, drawn)
    log.debug("options: %s", options.plain)
    require_writable(options.model_location, LOGS, CACHE, PICTURES)
    if options.push_to_hub:
        require_hub(options.push_to_hub)

    # Data
    task = read_task(accelerator, options, asked.epochs)
    if (done := files.already_done(task.record)) is not None:
        finish(accelerator, files)
        return files.final, done["scores"]
    stored = read_state(files.state, task.record_of(accelerator), options)

    # Model
    job = setup.prepare(accelerator, task, files, options)

    # Loop
    row = train(job, stored, after_epoch, grid.epochs_behind(asked))

    # Result
    scores = records.scores_of(row)
    if not options.fast_dev_run:
        told = f", {options.metric} {scores[options.metric]:.4f} on held-out {task.held_out.whose}" if scores else ""
        log.info("saved %s%s", files.final, told)
    finish(accelerator, files)
    return files.final, scores


def finish(accelerator: Accelerator, files: RunFiles) -> None:
    """Publish a checkpoint that is there, and say what to type next."""
    from utils.base.runtime import from_main
    from utils.base.terminal import log_file

    if files.options.fast_dev_run:
        log.info("fast dev run: everything works; no checkpoint is kept")
    else:
        from_main(accelerator, files.publish)
        if not files.options.runs:
            log.info("next, when all runs of the sweep are done: %s", files.next_command)
    log.info("log: %s", log_file())


def train(job: Job, stored: dict | None, after_epoch: Callable[[int, dict], None], epochs_behind: int = 0) -> dict:
    """Train from the beginning or from a `stored` state, evaluate after each epoch, and save.

    `epochs_behind` are those of the runs that come after this one. Returns the row of the epoch whose weights are
    saved.
    """
    import torch

    from utils.base.progress import ProgressBar
    from utils.data.preprocessing import normalised
    from utils.training.guard import guarded
    from utils.training.tracking import tracked_run

    accelerator, model, optimizer, options = job.accelerator, job.model, job.optimizer, job.options
    mean, std = job.task.preprocessing["mean"], job.task.preprocessing["std"]
    state = job.state
    progress = state.load(stored)
    for row in progress.history:
        after_epoch(row["epoch"], row)
    guarding = guarded(state, progress, options.checkpointing_steps, job.name_photographs)
    bar = ProgressBar(
        what=job.files.final.stem,
        total=options.epochs * job.epoch_steps,
        unit="step",
        speaks=accelerator.is_main_process,
        behind=epochs_behind * job.epoch_steps,
    )
    with tracked_run(accelerator, options, job.files.final.stem, progress.tracker), guarding as guard, bar:
        while not progress.finished(options.epochs, options.patience):
            model.train()
            first = seen = progress.seen
            bar.begin_at(progress.step)
            bar.set_postfix_str(f"epoch {progress.epoch}", refresh=False)
            total_loss = torch.as_tensor(progress.total_loss, device=accelerator.device).clone()
            begin = time.perf_counter()
            for squares, targets, *ages in job.loader.of_epoch(progress.epoch, seen):
                seen = min(seen + job.loader.per_batch, len(job.sampler))
                with accelerator.accumulate(model):
                    logits, features = model(normalised(squares, mean, std))
                    loss = job.loss_fn(logits, features, targets)
                    if ages:
                        predicted = job.bare.age_regression(features.float())[:, 0]
                        loss = loss + options.age_regression * torch.nn.functional.smooth_l1_loss(predicted, ages[0])
                    accelerator.backward(loss)
                    total_loss += loss.detach() * len(targets)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
                        guard.before_step(seen, total_loss if accelerator.scaler else norm)
                    optimizer.step()
                    if accelerator.sync_gradients:
                        job.schedule.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    if job.ema:
                        job.ema.update_parameters(job.bare)
                    progress.step_done(seen, total_loss)
                    bar.update()
                    guard.after_step()
            guard.save()  # before the evaluation, which may take long
            speed = (seen - first) / (time.perf_counter() - begin)
            row, logits = evaluate(job, progress, total_loss, speed)
            after_epoch(row["epoch"], row)
            progress.epoch_done(row)
            job.save_epoch(progress)
        return job.save(progress, logits)


def evaluate(job: Job, progress: Progress, total_loss: torch.Tensor, speed: float) -> tuple[dict, np.ndarray | None]:
    """The row of an epoch, with held-out scores when anybody is held out, and then their (N, C) logits."""
    held_out, logits, told = job.task.held_out, None, "nobody"
    row = {"epoch": progress.epoch, "step": progress.step, "lr": job.schedule.get_last_lr()[-1]}
    row["train_loss"] = job.accelerator.reduce(total_loss, "sum").item() / progress.seen
    if len(held_out.rows):
        logits = held_out.predict(job.shown)
        scores = held_out.score(logits)
        told = scores.told(job.options.metric)
        row |= scores.record()
        progress.note_best(row, job.options.metric, job.shown if job.options.keep == "best" else None)
    fast = f", {speed:.1f} images/s" if speed else ""
    job.tell_epoch(row["epoch"], f"train loss {row['train_loss']:.4f}{fast}, held out: {told}")
    job.accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=row["epoch"])
    return row, logits


def run_each(options: Options, run_one: Callable[[Options], object] = run) -> None:
    """Do all `--runs`, one after the other; the first that fails ends them."""
    from utils.training import grid, preflight

    runs = training_flags.each_run(options)
    for one in runs:
        preflight.check_run(one)
    for number, (one, left) in enumerate(grid.one_by_one(runs), start=1):
        if len(runs) > 1 and int(os.environ.get("RANK", "0")) == 0:
            print(f"== run {number} of {len(runs)}: {grid.run_stem(one)}{left}", flush=True)
        run_one(one)


def main(argv: list[str] | None = None) -> None:
    run_each(parser().parse(argv))


if __name__ == "__main__":
    run_script(main)
