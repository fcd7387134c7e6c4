"""The greedy soup against the plain published procedure: same decisions, less time.

    python benchmarks/soup_search.py --data-location faces --model-location model      a sweep of yours
    python benchmarks/soup_search.py --full-size one-better                            six random ViT-B/32, 140 images
    python benchmarks/soup_search.py --full-size one-better --other OTHER_CHECKOUT     the same searches by both

The baseline is written out here: load every state dict, decode and evaluate all held-out photographs, for each
ingredient by itself and for each candidate. Ours is `main.py --greedy-soup`, all that it does included, once cold
(nothing cached) and once warm (the ingredients' logits are there, as `finetune.py` leaves them, and so are the decoded
photographs). The three take turns; times are after imports, in one process. Results: see docs/results.md.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks"), str(REPOSITORY / "demo")]

import faces
from full_size import release_state

import main as soup_script
from utils.base import flags
from utils.base.metrics import METRICS
from utils.base.options import Options, Parser, number
from utils.data import competition
from utils.data.decoding import FORMATS, decode
from utils.data.preprocessing import normalised, preprocessing
from utils.data.reading import read_photographs
from utils.data.splits import make_split, recorded_split
from utils.evaluation.scores import exact_score
from utils.models.checkpoints import read_checkpoint, save_checkpoint
from utils.models.clip import build
from utils.models.foreign import from_openai
from utils.models.sweeps import find_sweep

BATCH = 64
STREWN = {  # standard deviations that the weights of each ingredient lie off the common tower
    "alike": (0.015, 0.02, 0.03, 0.03, 0.03, 0.03),  # most are accepted
    "one-better": (0.01, 0.03, 0.03, 0.03, 0.03, 0.03),  # most are rejected
}
PLACES = ("data_location", "model_location", "relabel")
CONFIG = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "projection_dim": 512, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip


def parser() -> Parser:
    parser = Parser(__doc__)
    flags.add_locations(parser)
    flags.add_relabel(parser)
    parser.add_argument("--metric", choices=METRICS, default="accuracy", help="what the soup must improve")
    parser.add_argument("--repeats", type=number(int, 1), default=3, help="times that each is run")
    parser.add_argument("--full-size", choices=STREWN, help="make six random ViT-B/32 and drawn faces instead")
    parser.add_argument("--other", type=Path, help="another checkout to compare with, in place of the baseline")
    return parser


def plain(paths: list[Path], photographs, rows: np.ndarray, metric) -> list[str]:
    """The published greedy soup as it is usually written; returns the names of the members in order."""
    checkpoints = [read_checkpoint(path) for path in paths]
    first = checkpoints[0]
    size, mean, std = (
        first.preprocessing["size"],
        *map(np.float32, (first.preprocessing["mean"], first.preprocessing["std"])),
    )
    labels = photographs.labels(first.labelling)[rows]

    def evaluate(state_dict: dict) -> object:
        model, logits = build(first.config, state_dict).eval(), []
        for start in range(0, len(rows), BATCH):
            squares = []
            for row in rows[start : start + BATCH]:
                image = Image.open(photographs.folder / photographs.files[row], formats=FORMATS).convert("RGB")
                pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
                squares.append(((pixels - mean) / std).transpose(2, 0, 1))
            with torch.inference_mode():
                logits.append(model.classify(torch.from_numpy(np.stack(squares))).numpy())
        return exact_score(metric, labels, np.concatenate(logits), first.labelling.num_classes)

    def load(path: Path) -> dict:
        return torch.load(path, weights_only=True)["state_dict"]

    scores = {path: evaluate(load(path)) for path in paths}
    order = sorted(paths, key=lambda path: -scores[path])
    members, best = order[:1], scores[order[0]]
    for path in order[1:]:
        states = [load(member) for member in [*members, path]]
        average = {n: (sum(s[n].double() for s in states) / len(states)).float() for n in states[0]}
        score = evaluate(average)
        if score > best:
            members, best = [*members, path], score
    return [path.stem for path in members]


def arguments_of(options: Options, step: str) -> list[str]:
    arguments = [step, "--metric", options.metric, "--workers", "0", "--data-location", str(options.data_location)]
    arguments += ["--model-location", str(options.model_location)]
    return arguments + (["--relabel", str(options.relabel)] if options.relabel else [])


def ours(options: Options, step: str) -> tuple[list[str], str] | None:
    """A step of `main.py`; of the greedy soup returns the members in order and what it says of its effort."""
    soup_script.run(soup_script.parser().parse(arguments_of(options, step)))
    if step != "--greedy-soup":
        return None
    lines = next(Path("logs").glob("greedy_soup_log_*.txt")).read_text().splitlines()
    accepted = [line.split()[1].rstrip(":") for line in lines if line.startswith("accepted")]
    return accepted, next(line for line in lines if "photographs looked at" in line)


def make_full_size(folder: Path, strewn_by: tuple[float, ...]) -> dict:
    """Six ViT-B/32 about one random tower, and drawn faces of 100 people, 20 held out.

    The head is fitted to the faces of all, held-out ones too, so that the six do about as well as fine-tuned models
    do. What can be saved hangs on how many errors there are and how many candidates are accepted, so there are two
    sets of them; nothing else is said of these models.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    data, model_location = folder / "data", folder / "model"
    faces.write_data_set(data, train=100, test=1)
    photographs = read_photographs(data, None)
    split, labelling = make_split(photographs, 0.2, 42), competition.labelling()
    tower = from_openai({name.removeprefix("model."): tensor for name, tensor in release_state(0).items()})
    dim = len(tower["visual_projection.weight"])
    head = {"classification_head.weight": torch.zeros(18, dim), "classification_head.bias": torch.zeros(18)}
    model, recipe = build(CONFIG, {**tower, **head}).eval(), preprocessing(CONFIG["image_size"])
    features = []
    with torch.inference_mode():
        for start in range(0, len(photographs), BATCH):
            files = (photographs.folder / name for name in photographs.files[start : start + BATCH])
            squares = np.stack([decode(file, CONFIG["image_size"]) for file in files])
            features.append(model.embed(normalised(torch.from_numpy(squares))).numpy())
    targets = photographs.labels(labelling)
    scaler = StandardScaler().fit(np.concatenate(features))
    probe = LogisticRegression(max_iter=1000).fit(scaler.transform(np.concatenate(features)), targets)
    rows = probe.coef_ / scaler.scale_
    head["classification_head.weight"][probe.classes_] = torch.from_numpy(rows).float()
    head["classification_head.bias"] += -100.0
    head["classification_head.bias"][probe.classes_] = torch.from_numpy(probe.intercept_ - rows @ scaler.mean_).float()
    meta = {
        "model": CONFIG, "labelling": labelling.record(), "preprocessing": recipe, "epoch": 1,
        "split": split.record(), "family": {"inputs": "one", "head_init": "probe"}, "scores": None, "made_from": [],
    }  # fmt: skip
    place = {"name": "full", "random_seed": 1, "epochs": 1}
    for i, strewn in enumerate(strewn_by):
        generator = torch.Generator().manual_seed(i)
        state = {
            name: tensor + strewn * tensor.std() * torch.randn(tensor.shape, generator=generator)
            for name, tensor in tower.items()
            if tensor.dim() > 1
        }
        record = meta | {"options": place | {"i": i}}
        save_checkpoint(model_location / f"full_seed1_i{i}_epoch1.pt", {**tower, **state, **head}, record)
    return {"data_location": data, "model_location": model_location, "relabel": None}


def run(options: Options) -> None:
    """Time the three in turn and print medians and ratios."""
    with tempfile.TemporaryDirectory() as folder:
        if options.full_size:
            options = options.replace(**make_full_size(Path(folder), STREWN[options.full_size]))
        places = {name: getattr(options, name) and getattr(options, name).resolve() for name in PLACES}
        options = options.replace(**places)
        logging.getLogger("datasets").setLevel(logging.ERROR)
        if options.other:
            return against(options, Path(folder) / "sweep")
        paths = [one.path for one in find_sweep(options.model_location).ingredients]
        photographs = read_photographs(options.data_location, options.relabel)
        rows = recorded_split(photographs, read_checkpoint(paths[0]).split).held_out
        print(
            f"{len(paths)} ingredients, {len(rows)} held-out photographs, {torch.get_num_threads()} threads",
            flush=True,
        )
        times = {"plain": [], "cold": [], "warm": []}
        for _ in range(options.repeats):
            begin = time.perf_counter()
            expected = plain(paths, photographs, rows, METRICS[options.metric])
            times["plain"].append(time.perf_counter() - begin)
            place = Path(folder) / "sweep"
            begin_in(place)
            for kind in ("cold", "warm"):
                if kind == "warm":
                    shutil.rmtree("logs")
                    ours(options, "--eval-individual-models")  # leaves what finetune.py leaves
                begin = time.perf_counter()
                members, effort = ours(options, "--greedy-soup")
                times[kind].append(time.perf_counter() - begin)
                assert members == expected, (members, expected)
            print(", ".join(f"{kind} {spent[-1]:.1f} s" for kind, spent in times.items()), flush=True)
        print(f"members in order: {', '.join(expected)}; {effort}")
        for kind in ("cold", "warm"):
            ratios = np.array(times["plain"]) / np.array(times[kind])
            print(
                f"plain {np.median(times['plain']):.1f} s, {kind} {np.median(times[kind]):.1f} s: "
                f"{np.median(ratios):.2f} times less ({ratios.min():.2f} to {ratios.max():.2f})"
            )
        used, passes = int(re.search(r"(\d+) of \d+ photographs", effort)[1]), 2 * len(paths) - 1
        print(f"forwards: plain {passes * len(rows)}, warm {used}: {passes * len(rows) / used:.2f} times less at most")


def begin_in(place: Path) -> None:
    """Go on in an empty folder."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    os.chdir(place)


def against(options: Options, place: Path) -> None:
    """Time whole searches of this and the other checkout in turn, which must write the same soup."""
    times, soups = defaultdict(list), set()
    for turn in range(options.repeats):
        for name, checkout in {"other": options.other.resolve(), "this": REPOSITORY}.items():
            begin_in(place)
            for kind in ("cold", "warm"):
                if kind == "warm":
                    shutil.rmtree("logs")
                    as_command(checkout, options, "--eval-individual-models")
                begin = time.perf_counter()
                as_command(checkout, options, "--greedy-soup")
                times[name, kind].append(time.perf_counter() - begin)
            (soup,) = options.model_location.glob("*soup*.pt")
            soups.add(read_checkpoint(soup).meta["digest"])
            soup.unlink()
            told = ", ".join(f"{kind} {times[name, kind][-1]:.1f} s" for kind in ("cold", "warm"))
            print(f"turn {turn + 1}, {name}: {told}", flush=True)
    for kind in ("cold", "warm"):
        ratios = np.array(times["this", kind]) / np.array(times["other", kind])
        of_each = ", ".join(f"{name} {np.median(times[name, kind]):.1f} s" for name in ("other", "this"))
        print(f"{kind}: {of_each}, ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")
    print("the same soup" if len(soups) == 1 else f"DIFFERENT soups: {soups}")


def as_command(checkout: Path, options: Options, step: str) -> None:
    command = [sys.executable, str(checkout / "main.py"), *arguments_of(options, step)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main(argv: list[str] | None = None) -> None:
    run(parser().parse(argv))


if __name__ == "__main__":
    main()
