"""What a fine-tuning run needs before its first step: the runtime, the model, the loss, the batches, the optimizer."""

import logging

import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size

from utils.base.errors import NoRoom
from utils.base.files import LOGS
from utils.base.options import Options
from utils.base.runtime import computes_bf16, from_main, loader_workers, start_runtime
from utils.base.training_flags import TRACKERS
from utils.data import competition
from utils.data.augmentation import EpochSampler
from utils.data.loading import EpochLoader
from utils.evaluation.prediction import predict
from utils.models.clip import Classifier
from utils.training import dataset, grid
from utils.training.job import Job
from utils.training.losses import make_loss
from utils.training.parameters import averaged, parameter_groups, trainable
from utils.training.records import RunFiles
from utils.training.sheets import save_augmented
from utils.training.task import Task

log = logging.getLogger(__name__)

BIAS = "classification_head.bias"


def start_training(options: Options, log_name: str) -> Accelerator:
    """The runtime of a fine-tuning run, with its tracker."""
    return start_runtime(
        log_name,
        options.verbose,
        options.random_seed,
        options.tf32,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        log_with=options.report_to if options.report_to in TRACKERS else None,
        project_dir=LOGS,
        mixed_precision=options.mixed_precision,
    )


def slowness(accelerator: Accelerator) -> list[str]:
    """What makes steps slow without need, in words."""
    if accelerator.mixed_precision != "bf16" or computes_bf16(accelerator.device):
        return []
    return [
        "this CPU has no instructions for bf16, so a step may take 20 times as long as in float32: pass "
        "--mixed-precision no, or take a machine that has them"
    ]


def prepare(accelerator: Accelerator, task: Task, files: RunFiles, options: Options) -> Job:
    """Build all that the loop works with. Raises `InputError` when the photographs do not fill a step."""
    from transformers import get_cosine_schedule_with_warmup

    # Photographs
    train_set = dataset.train_set(task, options)
    if accelerator.is_main_process and grid.is_first(options):
        if not competition.is_its(task.labelling):  # whose classes everybody knows
            log.info(
                "classes: %s",
                "; ".join(f"{len(one.values)} of {one.name} ({one.listed(8)})" for one in task.labelling.parts),
            )
        for line in [*task.oddities(), *slowness(accelerator)]:
            log.warning(line)
    train_count, held_out_count = len(train_set), len(task.held_out.rows)
    log.info("%d photographs to train on, %d held out (split %s)", train_count, held_out_count, task.split.digest)
    if options.save_img:
        sheet = from_main(accelerator, lambda: save_augmented(train_set, task.labelling, files.final.stem))
        log.info("augmented photographs: %s", sheet)

    # Model and loss
    num_classes, head = task.labelling.num_classes, task.head(accelerator)
    weights = dataset.class_weights(train_set.labels, options.class_weights, num_classes)
    adjustment = dataset.loss_adjustment(train_set, options, num_classes, weights)
    head = {**head, BIAS: head[BIAS] - adjustment}  # the loss adds it again, so training starts from the same head
    bare = trainable(accelerator, task.start, head, options)
    ema = averaged(bare, options.ema_decay)
    loss_fn = make_loss(
        options.loss_fn,
        options.contrastive_weight,
        options.label_smoothing,
        adjustment,
        weights,
        accelerator.device,
    )

    # Batches
    batch_size = fitting_batch_size(accelerator, bare, options)
    photographs = min(batch_size, len(train_set))
    workers = loader_workers(accelerator, options.workers, photographs, [task.preprocessing["size"]])
    per_step = options.batch_size * options.gradient_accumulation_steps * accelerator.num_processes
    dataset.check_steps(train_set, per_step, per_step // options.batch_size)
    drawn_by = dataset.sampling_weights(train_set, options)
    sampler = EpochSampler(len(train_set), options.random_seed, drawn_by, per_step)
    loader = EpochLoader(accelerator, train_set, sampler, batch_size, options.epochs, workers)

    # Steps
    groups = parameter_groups(bare, options.lr, options.wd, options.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=True)
    if options.compile:
        bare.compile()
    model, optimizer = accelerator.prepare(bare, optimizer)
    epoch_steps = -(-len(loader) // accelerator.gradient_accumulation_steps)
    steps = options.epochs * epoch_steps
    schedule = get_cosine_schedule_with_warmup(optimizer, min(options.warmup_length, steps // 10), steps)
    start = f"{task.start.source}, {task.family['head_init']} head"
    log.info("fine-tuning %s: %d epochs of %d steps, lr %g", start, options.epochs, epoch_steps, options.lr)
    if len(task.held_out.rows):  # a broken evaluation fails now and not after the first epoch
        held_out = task.held_out
        predict(accelerator, bare, held_out.squares, held_out.rows[:2], task.preprocessing, batch_size=1)
    return Job(
        accelerator=accelerator,
        options=options,
        task=task,
        files=files,
        train_set=train_set,
        bare=bare,
        ema=ema,
        loss_fn=loss_fn,
        model=model,
        loader=loader,
        sampler=sampler,
        optimizer=optimizer,
        schedule=schedule,
    )


def fitting_batch_size(accelerator: Accelerator, model: Classifier, options: Options) -> int:
    """How many photographs a forward and backward pass has room for: the batch size, or a half, a quarter and so on.

    What is left of the batch is accumulated, so that a step stays the same. Only a GPU tells that it has no room.
    """
    if accelerator.device.type == "cpu":
        return options.batch_size
    sizes = [options.batch_size >> k for k in range(options.batch_size.bit_length())]
    sizes = [size for size in sizes if options.batch_size % size == 0]
    smaller = iter([*sizes[1:], 0])

    @find_executable_batch_size(starting_batch_size=sizes[0], reduce_batch_size_fn=lambda: next(smaller))
    def room_for(batch_size: int) -> int:
        moments = [torch.empty_like(parameter) for parameter in model.parameters() for _ in range(2)]  # AdamW's
        shape = batch_size, 3, model.config["image_size"], model.config["image_size"]
        with accelerator.autocast():
            logits, _ = model.train()(torch.zeros(shape, device=accelerator.device))
        logits.float().sum().backward()
        del moments
        return batch_size

    try:
        batch_size = room_for()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise NoRoom("no room on the GPU for a single photograph: pass --gradient-checkpointing") from error
    finally:
        model.zero_grad()
    batch_size = int(accelerator.gather(torch.tensor([batch_size], device=accelerator.device)).min())
    parts = options.batch_size // batch_size
    if parts > 1:
        log.warning("no room for %d photographs: %d times %d make a step", options.batch_size, parts, batch_size)
        accelerator.gradient_accumulation_steps = options.gradient_accumulation_steps * parts
    return batch_size
