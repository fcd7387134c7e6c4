"""A soup for other programs: a Hugging Face folder with a model card, and ONNX."""

import ctypes
import errno
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from utils.base.errors import InputError
from utils.base.files import atomic, require_writable, temporary_beside
from utils.base.flags import RECORD_FILE
from utils.base.options import Options
from utils.models.card import model_card
from utils.models.checkpoints import Checkpoint
from utils.models.clip import build
from utils.models.foreign import HEAD
from utils.models.towers import TOWER, hub_class, hub_config, is_clip
from utils.models.weights import HEAD_FILE, read_weights

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
    """Write a folder that the tower's own class in transformers loads, the head beside it.

    It holds the image processor, our record and a model card, too; an earlier export is replaced in one step. It is
    read back and compared before it is moved into place. A disk that is full is one `OSError` that names the folder.
    """
    from safetensors import SafetensorError

    with _beside(folder) as temporary:
        made = temporary / folder.name
        try:
            _write_folder(made, checkpoint)
            if read_weights(made).digest != checkpoint.digest:
                raise AssertionError(f"{made} does not read back as {checkpoint.path}")
            _replace(folder, made)
        except (OSError, SafetensorError) as error:
            number = getattr(error, "errno", None) or errno.ENOSPC  # what safetensors raises when it cannot write
            raise OSError(
                number, f"{getattr(error, 'strerror', None) or error}; nothing was written", str(folder)
            ) from error


def _write_folder(made: Path, checkpoint: Checkpoint) -> None:
    """Write the files of an exported folder into a new one."""
    from safetensors.torch import save_file
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # before the image processor is imported, which misses torchvision
    transformers_logging.disable_progress_bar()
    from transformers import CLIPImageProcessor

    state_dict, how = checkpoint.state_dict(), checkpoint.preprocessing
    prefix = "" if is_clip(checkpoint.config) else TOWER
    tower = {name.removeprefix(prefix): t for name, t in state_dict.items() if not name.startswith(HEAD)}
    head = {name: tensor.clone() for name, tensor in state_dict.items() if name.startswith(HEAD)}
    names = dict(enumerate(checkpoint.labelling.classes))
    numbers = {name: number for number, name in names.items()}
    with torch.device("meta"):
        model = hub_class(checkpoint.config)(hub_config(checkpoint.config, id2label=names, label2id=numbers))
    model.save_pretrained(made, state_dict=tower)
    save_file(head, made / HEAD_FILE)
    square = {"height": how["size"], "width": how["size"]}
    CLIPImageProcessor(
        size=square,
        crop_size=square,
        do_center_crop=False,
        resample=Image.Resampling.BICUBIC,
        image_mean=how["mean"],
        image_std=how["std"],
    ).save_pretrained(made)
    (made / RECORD_FILE).write_text(json.dumps(checkpoint.meta, indent=1), encoding="utf-8")
    (made / "README.md").write_text(model_card(checkpoint), encoding="utf-8")
    for path in made.iterdir():
        path.chmod(0o644)  # some of its writers keep theirs to the owner


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`; those that killed processes of this machine left are removed."""
    temporary = temporary_beside(folder)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, made: Path) -> None:
    """Move a folder into the place of another, which takes its place: at no moment is there none, where the system can
    swap. Where it cannot, the other lies beside it for that moment, under a name that can be seen.
    """
    if not folder.exists():
        made.rename(folder)
    elif not _swapped(folder, made):
        earlier = folder.with_name(f"{folder.name}.replaced")
        folder.rename(earlier)
        made.rename(folder)
        shutil.rmtree(earlier)


def _swapped(one: Path, other: Path) -> bool:
    """Swap two folders in one step; whether the system could."""
    libc, names = ctypes.CDLL(None), [os.fsencode(one.absolute()), os.fsencode(other.absolute())]
    exchange, here = 2, -100  # RENAME_EXCHANGE and RENAME_SWAP, AT_FDCWD
    if hasattr(libc, "renameat2"):  # Linux
        return libc.renameat2(here, names[0], here, names[1], exchange) == 0
    return hasattr(libc, "renamex_np") and libc.renamex_np(*names, exchange) == 0  # macOS


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
    """Write ONNX from (B, 3, S, S) normalised `pixel_values`, any B, to `logits` (B, C); its metadata say how to make
    the former, and what the latter mean.

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
        _tell(temporary, checkpoint)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"pixel_values": pixel_values.numpy()})
        difference = float(np.abs(logits - model(pixel_values).numpy()).max())
        if not difference <= TOLERANCE:
            raise InputError(f"{path}: ONNX Runtime's logits differ from PyTorch's by {difference:.2g}: not written")
    return difference


def _tell(path: Path, checkpoint: Checkpoint) -> None:
    """Put into the metadata of an ONNX file what it takes and what it answers: `classes`, `mean` and `std` as JSON."""
    how = checkpoint.preprocessing
    import onnx

    model = onnx.load(path)
    told = {
        "classes": json.dumps(checkpoint.labelling.classes),
        "size": str(how["size"]),
        "mean": json.dumps(how["mean"]),
        "std": json.dumps(how["std"]),
        "resampling": how["resample"],
        "name": checkpoint.name,
        "digest": checkpoint.digest,
    }
    onnx.helper.set_model_props(model, told)
    onnx.save(model, path)
