"""Less work in a step of training, and what it costs: patch dropout, small photographs at first, frozen layers, bf16.

    python benchmarks/training_compute.py scores --data faces --pretrained backbones --truth truth.csv
    python benchmarks/training_compute.py speed --data faces --pretrained backbones [--repeats 3]

`scores` runs `finetune.py` once per variant and seed, in the folder it is called from (a run that is there is skipped;
`--only` and `--seeds` share the work among processes), and prints the macro-F1 on the people of the truth, whom no run
has seen, and the difference to the plain runs of the same seeds with its 95 % interval over people. `speed`
trains each variant on a few people, by turns, and prints images a second in the loop, their ratio to the plain run of
the same turn, and the share of an epoch that its evaluation takes when one in five is held out.

Patch dropout is that of Li et al. 2023, "FLIP": a step sees a random part of each photograph's patches. Neither it nor
the growing size is an option of `finetune.py`: they are put into the model from here. On a CPU without bf16
instructions `scores` computes the products of bf16 numbers in float32 and rounds them (`Rounded`), which is what such
instructions do, and `speed` leaves bf16 out. Results: see docs/results.md.
"""

import argparse
import contextlib
import io
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any_only, tree_map_only

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from folds import Truth, difference_told, predicted, resampled

import finetune
from utils.base.runtime import computes_bf16
from utils.data.loading import EpochLoader
from utils.models.clip import Classifier

COMMON = (
    "--lr 4e-4 --batch-size 32 --mixup 0.2 --half-cutmix 0.5 --layer-decay 0.75 --logit-adjustment 1.0 --workers 0"
)
PEOPLE, EPOCHS = 80, 6  # of `speed`
AUGMENTED = "--epochs 24 --aug-strength 1.5"
BF16 = "bf16"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Variant:
    """Flags of a run, the share of patches that its steps leave out in the first part of its epochs, and pixels per
    side, each up to a part of the epochs.
    """

    flags: str = AUGMENTED
    dropped: float = 0.0
    until: float = 1.0
    sizes: tuple[tuple[int, float], ...] = ()


VARIANTS = {
    "plain": Variant(),
    "patch dropout 0.25": Variant(dropped=0.25),
    "patch dropout 0.5": Variant(dropped=0.5),
    "patch dropout 0.5, none in the last fifth": Variant(dropped=0.5, until=0.8),
    "patch dropout 0.5, 36 epochs": Variant("--epochs 36 --aug-strength 1.5", dropped=0.5),
    "32, 48, 64 pixels, a third each": Variant(sizes=((32, 1 / 3), (48, 2 / 3))),
    "32 pixels, 64 from the middle on": Variant(sizes=((32, 0.5),)),
    "freeze first-2": Variant(f"{AUGMENTED} --freeze first-2"),
    "no augmentation": Variant("--epochs 24 --aug-strength 0"),
    "no augmentation, freeze first-2": Variant("--epochs 24 --aug-strength 0 --freeze first-2"),
    BF16: Variant(f"{AUGMENTED} --mixed-precision bf16"),
}


class Rounded(TorchDispatchMode):
    """Matrix products of bf16 numbers as an instruction for them gives them: added up in float32, rounded once.

    Everything else is computed by torch itself, in the precision that autocast chose for it.
    """

    PRODUCTS = (
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::convolution",
        "aten::convolution_backward",
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = (args, kwargs or {})
        if func._schema.name not in self.PRODUCTS or not tree_any_only(torch.Tensor, is_bf16, given):
            return func(*given[0], **given[1])
        args, kwargs = tree_map_only(torch.Tensor, lambda one: one.float() if is_bf16(one) else one, given)
        return tree_map_only(torch.Tensor, torch.Tensor.bfloat16, func(*args, **kwargs))


def is_bf16(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.bfloat16


@contextlib.contextmanager
def put_in(variant: Variant) -> Iterator[None]:
    """Train as the variant does while the block runs; evaluation sees whole photographs of full size."""
    part, of_epoch, embed = 0.0, EpochLoader.of_epoch, Classifier.embed

    def noted(self: EpochLoader, epoch: int, seen: int = 0):
        nonlocal part
        part = (epoch - 1) / self.epochs
        return of_epoch(self, epoch, seen)

    def less_work(self: Classifier, pixel_values: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return embed(self, pixel_values)
        full = pixel_values.shape[-1]
        size = next((pixels for pixels, until in variant.sizes if part < until - 1e-9), full)
        if size != full:
            pixel_values = F.interpolate(pixel_values, (size, size), mode="bilinear", antialias=True)
        hook = self.vision_model.embeddings.register_forward_hook(lambda module, given, tokens: kept(tokens))
        try:
            told = self.vision_model(pixel_values=pixel_values, interpolate_pos_encoding=size != full)
        finally:
            hook.remove()
        return F.normalize(self.visual_projection(told.pooler_output), dim=-1)

    def kept(tokens: torch.Tensor) -> torch.Tensor:
        return some_of(tokens, variant.dropped) if part < variant.until - 1e-9 else tokens

    EpochLoader.of_epoch, Classifier.embed = noted, less_work
    AcceleratorState._reset_state(reset_partial_state=True)  # the precision of a run is that of no other
    try:
        yield
    finally:
        EpochLoader.of_epoch, Classifier.embed = of_epoch, embed
        AcceleratorState._reset_state(reset_partial_state=True)


def some_of(tokens: torch.Tensor, dropped: float) -> torch.Tensor:
    """(B, 1 + n, W) tokens without a random share of the n patches of each photograph; the class token stays."""
    patches = tokens.shape[1] - 1
    chosen = torch.rand(len(tokens), patches, device=tokens.device).topk(round(patches * (1 - dropped))).indices
    return torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))], 1)


def train(name: str, options: argparse.Namespace, data: Path, *more: str) -> tuple[Path, str]:
    """The checkpoint of a variant, and what the run told."""
    argv = ["--data-location", str(data), "--pretrained-location", str(options.pretrained)]
    argv += [
        "--name",
        re.sub(r"\W+", "_", name),
        "--report-to",
        "none",
        *COMMON.split(),
        *VARIANTS[name].flags.split(),
    ]
    with put_in(VARIANTS[name]), contextlib.redirect_stdout(io.StringIO()) as told:
        path, _ = finetune.run(finetune.parser().parse([*argv, *more]))
    return path, told.getvalue()


def scores(options: argparse.Namespace) -> None:
    truth, plain = Truth(options.truth), None
    print("| variant | macro-F1 on new people, each seed | mean | minus plain |\n|---|---|---|---|")
    for name in dict.fromkeys(["plain", *(options.only or VARIANTS)]):
        every = []
        for seed in options.seeds:
            with contextlib.nullcontext() if computes_bf16(DEVICE) else Rounded():
                path, _ = train(name, options, options.data, "--resume", "--random-seed", str(seed))
            every.append(predicted(path, options.data, truth))
        mean = resampled("macro_f1", truth.labels, every, truth.persons, np.ones(len(truth.labels)))
        plain = mean if plain is None else plain
        each = " ".join(f"{truth.score(answers)['macro_f1']:.3f}" for answers in every)
        print(f"| {name} | {each} | {mean[0]:.3f} | {difference_told(mean - plain)} |", flush=True)


def speed(options: argparse.Namespace) -> None:
    measurable = [name for name in VARIANTS if name != BF16 or computes_bf16(DEVICE)]
    rates, shares, evaluate = defaultdict(list), [], finetune.evaluate
    evaluated = []

    def timed(*arguments):
        begin = time.perf_counter()
        result = evaluate(*arguments)
        evaluated.append(time.perf_counter() - begin)
        return result

    finetune.evaluate = timed
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        images = Path("data/train/images")
        images.mkdir(parents=True)
        for person in sorted((options.data / "train" / "images").iterdir())[:PEOPLE]:
            (images / person.name).symlink_to(person)
        for turn in range(-1, options.repeats):
            for name in dict.fromkeys(["plain", *(options.only or measurable)]):
                evaluated.clear()
                few = ("--epochs", str(EPOCHS), "--overwrite", "--random-seed", str(turn + 1))
                _, told = train(name, options, Path("data"), *few)
                if turn >= 0:
                    each = [float(rate) for rate in re.findall(r"([\d.]+) images/s", told)]
                    rates[name].append(statistics.harmonic_mean(each))
                    trained = EPOCHS * int(re.search(r"(\d+) photographs to train on", told)[1]) / rates[name][-1]
                    if name == "plain":
                        shares.append(sum(evaluated) / (sum(evaluated) + trained))
    print("| variant | images a second | times plain |\n|---|---|---|")
    for name, every in rates.items():
        print(f"| {name} | {spread(every)} | {spread(np.divide(every, rates['plain']))} |")
    print(f"The evaluation after each epoch, of one person in five, takes {spread(shares)} of the plain run's time.")


def spread(values: list[float]) -> str:
    return f"{np.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scores", "speed"))
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--pretrained", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--truth", type=lambda text: Path(text).resolve())
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.what == "scores" and not options.truth:
        parser.error("scores needs --truth")
    {"scores": scores, "speed": speed}[options.what](options)


if __name__ == "__main__":
    main()
