"""A model, as other programs call it: images in, names of classes and probabilities out."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator
from PIL import Image

from utils.base.errors import InputError
from utils.base.flags import EVALUATION_BATCH
from utils.data.decoding import decode, squash
from utils.ensembles.combining import as_probs
from utils.evaluation.prediction import predict
from utils.models.checkpoints import read_checkpoint
from utils.models.starts import may_be_hub_id


class Predictions(NamedTuple):
    """The likeliest class of each image, and (N, C) float64 probabilities in the order of `Predictor.classes`."""

    names: list[str]
    probs: np.ndarray


class Predictor:
    """A fine-tuned model or a soup: a checkpoint file, the folder of `main.py --export`, or the hub id of such.

    `classes` are the names of its classes in the order of class ids. Raises `InputError` for a source that is none.
    """

    def __init__(self, source: str | Path):
        checkpoint = read_checkpoint(_on_disk(str(source)))
        self.classes, self._how = checkpoint.labelling.classes, checkpoint.preprocessing
        self._accelerator, self._model = Accelerator(), checkpoint.build()

    def predict(
        self, images: Sequence[str | PathLike | Image.Image], batch_size: int = EVALUATION_BATCH
    ) -> Predictions:
        """What `images` are, paths or PIL images, in batches of `batch_size`; of files it is what inference.py
        answers. Raises `InputError` for an image that cannot be read.
        """
        if isinstance(images, str | PathLike | Image.Image):
            raise InputError("predict takes a list of images, such as [image]")
        if not len(images):
            return Predictions([], np.empty((0, len(self.classes))))
        squares, rows = _Squares(images, self._how["size"]), np.arange(len(images))
        logits = predict(self._accelerator, self._model, squares, rows, self._how, batch_size)
        return Predictions([self.classes[k] for k in logits.argmax(-1)], as_probs(logits))


class _Squares:
    """Images as (S, S, 3) uint8 squares, decoded when they are asked for."""

    def __init__(self, images: Sequence, size: int):
        self.images, self.size = images, size

    def __getitem__(self, row: int) -> np.ndarray:
        image = self.images[row]
        return squash(image, self.size) if isinstance(image, Image.Image) else decode(Path(image), self.size)


def _on_disk(source: str) -> Path:
    """Where a source lies; a repository of the hub is downloaded whole, since our record and head are beside it."""
    if Path(source).exists() or not may_be_hub_id(source):
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{source} is no file or folder, and cannot be fetched from the hub ({error})") from error
