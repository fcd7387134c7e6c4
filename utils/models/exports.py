"""A soup for other programs: a Hugging Face folder with a model card, and ONNX."""

import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from utils.base.errors import InputError
from utils.base.files import atomic, require_writable
from utils.base.flags import RECIPES, RECORD_FILE, Recipe
from utils.base.metrics import METRICS
from utils.base.options import Options
from utils.models.checkpoints import Checkpoint
from utils.models.clip import build
from utils.models.weights import HEAD, HEAD_FILE, digest, read_weights

log = logging.getLogger(__name__)


TOLERANCE = 1e-4  # between PyTorch's logits and ONNX Runtime's


EXPORTED = {  # what an exported folder holds; one that holds anything else is never replaced
    "config.json", "model.safetensors", "preprocessor_config.json", "README.md", HEAD_FILE, RECORD_FILE,
}  # fmt: skip


def require_exportable(options: Options, ingredients: Sequence[Checkpoint]) -> None:
    """Raise `InputError` before any long work when something else is in the way, or the place cannot be written to."""
    folder, onnx_file = options.export, options.export_onnx
    if options.push_to_hub:
        require_hub(options.push_to_hub)
    read = {one.path.resolve() for one in ingredients}
    if folder is not None:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or folder.resolve() == Path.cwd():
            raise InputError(f"--export {folder} is no folder of its own: name a new one, such as my_soup")
        held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if held and (not held <= EXPORTED or RECORD_FILE not in held):
            raise InputError(f"--export {folder} is there and is no exported soup: name another folder")
        if folder.resolve() in read:
            raise InputError(f"--export {folder} is one of the ingredients: name another folder")
        require_writable(folder.parent)
    if onnx_file is not None:
        if onnx_file.is_dir():
            raise InputError(f"--export-onnx {onnx_file} is a folder: name a file, such as {onnx_file}/soup.onnx")
        if onnx_file.resolve() in read:
            raise InputError(f"--export-onnx {onnx_file} is one of the ingredients: name another file")
        require_writable(onnx_file.parent)


def export(soup: Checkpoint, pixel_values: torch.Tensor, options: Options) -> None:
    """Write a soup as the options ask for; ONNX is compared on (B, 3, S, S) `pixel_values` of a few photographs."""
    folder, onnx_file = options.export, options.export_onnx
    if folder is not None:
        export_folder(folder, soup)
        log.info("exported %s to the Hugging Face folder %s", soup.path.name, folder)
    if onnx_file is not None:
        difference = export_onnx(onnx_file, soup, pixel_values)
        log.info("exported %s to %s: logits differ from PyTorch's by %.1e", soup.path.name, onnx_file, difference)
    if options.push_to_hub:
        log.info("%s is on the hub: %s", soup.path.name, push_to_hub(options.push_to_hub, soup))


def export_folder(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a folder that `CLIPVisionModelWithProjection.from_pretrained` loads, the head beside it.

    It holds the image processor, our record and a model card, too; an earlier export is replaced. It is read back and
    compared before it is moved into place.
    """
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    state_dict = checkpoint.state_dict()
    tower = {name: tensor for name, tensor in state_dict.items() if not name.startswith(HEAD)}
    head = {name: tensor.clone() for name, tensor in state_dict.items() if name.startswith(HEAD)}
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        made = Path(temporary) / folder.name
        with torch.device("meta"):
            model = CLIPVisionModelWithProjection(CLIPVisionConfig(**checkpoint.config))
        model.save_pretrained(made, state_dict=tower)
        save_file(head, made / HEAD_FILE)
        size = checkpoint.preprocessing["size"]
        CLIPImageProcessor(
            size={"height": size, "width": size},
            do_center_crop=False,
            image_mean=checkpoint.preprocessing["mean"],
            image_std=checkpoint.preprocessing["std"],
        ).save_pretrained(made)
        (made / RECORD_FILE).write_text(json.dumps(checkpoint.meta, indent=1), encoding="utf-8")
        (made / "README.md").write_text(model_card(checkpoint), encoding="utf-8")
        for path in made.iterdir():
            path.chmod(0o644)  # some of its writers keep theirs to the owner
        if digest(read_weights(made).state_dict) != checkpoint.digest:
            raise AssertionError(f"{made} does not read back as {checkpoint.path}")
        if folder.exists():
            folder.rename(Path(temporary) / "earlier")  # goes with the temporary folder
        made.rename(folder)


def model_card(checkpoint: Checkpoint) -> str:
    """The folder's README.md: what the soup is made of, what it scored on whom, how to load it."""
    scores, recipe = checkpoint.meta["scores"], checkpoint.meta["options"].get("recipe")
    people = f"{scores['images']} images of {scores.get('people', 'held-out people')}" if scores else "nobody"
    told = (
        [f"{metric.title} {scores[name]:.4f}" for name, metric in METRICS.items() if name in scores] if scores else []
    )
    known = ", ".join(told) or "no scores"
    selected = recipe is not None and RECIPES.get(recipe, Recipe()).selects
    classes = "\n".join(f"{k}. {name}" for k, name in enumerate(checkpoint.labelling.classes))
    return f"""---
library_name: transformers
pipeline_tag: image-classification
tags: [clip, model-soup]
---

# {checkpoint.name}

{_origin(checkpoint)}

Digest of the weights: {checkpoint.digest}

On {people}: {known}.{" The same people chose the soup, so on others expect a little less." * selected}

```python
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

folder = "."
model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
processor = CLIPImageProcessor.from_pretrained(folder)
head = load_file(f"{{folder}}/{HEAD_FILE}")
pixels = processor(Image.open("photograph.jpg").convert("RGB"), return_tensors="pt")
with torch.inference_mode():
    features = torch.nn.functional.normalize(model(**pixels).image_embeds, dim=-1)
    logits = features @ head["classification_head.weight"].T + head["classification_head.bias"]
```

Classes, from 0:

{classes}
"""


def _origin(checkpoint: Checkpoint) -> str:
    """What a soup was made of, or how a single model was trained."""
    meta, classes = checkpoint.meta, checkpoint.labelling.num_classes
    if meta["made_from"]:
        rows = "\n".join(
            f"| {one['name']} | {one['weight']:.4f} | {one['digest'][:16]} |" for one in meta["made_from"]
        )
        return f"""A model soup: the weighted average of {len(meta["made_from"])} fine-tuned CLIP vision towers (recipe
{meta["options"]["recipe"]}), with one linear head of {classes} classes.

| ingredient | weight | digest |
|---|---|---|
{rows}"""
    options = "\n".join(f"| {name} | {value} |" for name, value in sorted(meta["options"].items()))
    return f"""A CLIP vision tower fine-tuned from {meta["start"]["source"]}, with one linear head of {classes}
classes.

| option | value |
|---|---|
{options}"""


def require_hub(repo: str) -> None:
    """Raise `InputError` before any long work when nobody is logged in to the hub, or it is not reached."""
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # the hub's client passes on its transport's own exceptions
        reason = str(error).splitlines()[0]
        raise InputError(f"--push-to-hub {repo}: {reason} (log in once with 'hf auth login')") from error


def push_to_hub(repo: str, checkpoint: Checkpoint) -> str:
    """Put what `export_folder` writes into a repository of the hub, private when it is new; returns its address."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / checkpoint.path.stem
        export_folder(folder, checkpoint)
        address = HfApi().create_repo(repo, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message=checkpoint.name)
    return str(address)


class _Classify(nn.Module):
    """`classify` as `forward`, which is what an exporter follows."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model.classify(pixel_values)


def export_onnx(path: Path, checkpoint: Checkpoint, pixel_values: torch.Tensor) -> float:
    """Write ONNX from (B, 3, S, S) normalised `pixel_values`, any B, to `logits` (B, C).

    Returns the largest difference between PyTorch's logits and ONNX Runtime's on the `pixel_values` given, two images
    or more. Raises `InputError` when it exceeds 1e-4; then nothing is written.
    """
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which no CLIP tower needs
    model = _Classify(build(checkpoint.config, checkpoint.state_dict(), checkpoint.name)).eval()
    with atomic(path) as temporary, torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its insides
        torch.onnx.export(
            model,
            (pixel_values[:2],),
            temporary,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"pixel_values": pixel_values.numpy()})
        difference = float(np.abs(logits - model(pixel_values).numpy()).max())
        if not difference <= TOLERANCE:
            raise InputError(f"{path}: ONNX Runtime's logits differ from PyTorch's by {difference:.2g}: not written")
    return difference
