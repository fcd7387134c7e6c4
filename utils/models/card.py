"""The model card of an exported folder: what the model is made of, what it scored on whom, and code that runs it."""

import re

from utils.base.flags import RECIPES, Recipe
from utils.base.metrics import METRICS, shown_metrics
from utils.models.checkpoints import Checkpoint
from utils.models.towers import hub_class, is_clip

CODE = '''import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, {name}
from transformers.utils import cached_file

folder = "."  # where this file lies, or the repository's name on the hub
model = {name}.from_pretrained(folder).eval()
processor = CLIPImageProcessor.from_pretrained(folder)
head = load_file(cached_file(folder, "classification_head.safetensors"))
size = model.config.image_size


def square(path):
    """A photograph, upright and squashed to the model's square."""
    with Image.open(path) as image:
        image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a half, a quarter or an eighth
        return ImageOps.exif_transpose(image).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)


def logits_of(paths):
    pixels = processor([square(path) for path in paths], return_tensors="pt")
    with torch.inference_mode():
        features = torch.nn.functional.normalize(model(**pixels).{output}, dim=-1)
        return features @ head["classification_head.weight"].T + head["classification_head.bias"]


logits = logits_of(["photograph.jpg"])
for number, probability in zip(logits.argmax(-1).tolist(), logits.softmax(-1).amax(-1).tolist()):
    print(number, model.config.id2label[number], f"{probability:.3f}")
'''


def model_card(checkpoint: Checkpoint) -> str:
    """The folder's README.md: what the soup is made of, what it scored on whom, how to load it."""
    scores, recipe = checkpoint.meta["scores"], checkpoint.meta["options"].get("recipe")
    people = f"{scores['images']} images of {plain(scores.get('people', 'held-out people'))}" if scores else "nobody"
    shown = shown_metrics(checkpoint.meta["options"].get("metric", "macro_f1"))
    told = [f"{METRICS[name].title} {scores[name]:.4f}" for name in shown if name in scores] if scores else []
    known = ", ".join(told) or "no scores"
    selected = recipe is not None and RECIPES.get(recipe, Recipe()).selects
    classes = "\n".join(f"| {k} | {plain(name)} |" for k, name in enumerate(checkpoint.labelling.classes))
    kind = hub_class(checkpoint.config)
    family = checkpoint.config.get("model_type", "clip")
    output = "image_embeds" if is_clip(checkpoint.config) else "pooler_output"
    code = CODE.replace("{name}", kind.__name__).replace("{output}", output)
    return f"""---
library_name: transformers
tags: [{family}, model-soup]
---

# {plain(checkpoint.name)}

{_origin(checkpoint, "CLIP vision tower" if is_clip(checkpoint.config) else "vision tower")}

Digest of the weights: {checkpoint.digest}

On {people}: {known}.{" They chose the soup, too, so on others expect a little less." * selected}

The tower is transformers' `{kind.__name__}`. The head lies beside it, since transformers has no class
for both: `pipeline` does not run this folder, and the code below does. It needs torch, transformers and pillow.

```python
{code}```

| class | meaning |
|---|---|
{classes}
"""


def plain(text: object) -> str:
    """Text of others as Markdown shows it: in one line, with nothing in it that means more than itself."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return re.sub(r"([\\`*\[\]<>#|&~])", r"\\\1", line)


def _origin(checkpoint: Checkpoint, tower: str) -> str:
    """What a soup was made of, or how a single model was trained."""
    meta, classes = checkpoint.meta, checkpoint.labelling.num_classes
    if meta["made_from"]:
        rows = "\n".join(
            f"| {plain(one['name'])} | {one['weight']:.4f} | {one['digest'][:16]} |" for one in meta["made_from"]
        )
        count, recipe = len(meta["made_from"]), meta["options"]["recipe"]
        made = f"A model soup: the weighted average of {count} fine-tuned {tower}s (recipe {recipe})"
        if count == 1:
            made = f"A fine-tuned {tower}, the only one that the soup's recipe ({recipe}) kept"
        return f"""{made},
with one linear head of {classes} classes.

| ingredient | weight | digest |
|---|---|---|
{rows}"""
    options = "\n".join(f"| {name} | {plain(value)} |" for name, value in sorted(meta["options"].items()))
    return f"""A {tower} fine-tuned from {plain(meta["start"]["source"])}, with one linear head of {classes}
classes.

| option | value |
|---|---|
{options}"""
