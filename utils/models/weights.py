"""Weights from elsewhere, brought to one form: tensors under their Hugging Face hub names, and a model config.

Read are model-soups release files, OpenAI-format CLIP state dicts, hub ids and folders, and our own checkpoints, all
told apart by their tensor names; and files of other towers with the configuration that is told of them. Nothing is
unpickled that `weights_only=True` refuses, and no folder's code is run.
"""

import errno
import hashlib
import pickle
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from utils.base.errors import InputError
from utils.base.files import atomic, identity
from utils.base.flags import RECORD_FILE
from utils.data.preprocessing import CLIP_MEAN, CLIP_STD, checked_preprocessing, preprocessing
from utils.models.clip import resize_positions
from utils.models.foreign import (
    HEAD,
    POSITIONS,
    check_finite,
    checked_tensors,
    holds_tensors,
    plain_tensors,
    read_state_dict,
)
from utils.models.hub import Processor, ToldTower, read_folder, read_told, read_tower
from utils.models.record import check_record, read_exported_record
from utils.models.starts import HUB_NAMES, may_be_hub_id
from utils.models.tower_config import checked_config
from utils.models.towers import as_text, is_clip, resized

HEAD_FILE = "classification_head.safetensors"  # beside the tower in an exported folder
_DIGESTS = {}  # of the weights at a path, by what tells whether it was replaced


def digest(state_dict: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the sorted (name, dtype, shape, bytes) of the tensors, in hex, whatever file they came in."""
    sha = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return sha.hexdigest()


@dataclass(frozen=True)
class Weights:
    """float32 tensors under hub names, the head's (`classification_head.*`) among them if the file had one.

    `config` is as `checked_config` gives it; `meta` is our own record, None for files of others; `text_source` is the
    hub id or folder whose text tower can make a zero-shot head; `told` is what the user said of a tower that OpenAI's
    are not like. `tensors_digest` is that of the tensors as they were read. `processor` is the tower's own.
    """

    source: str
    state_dict: dict[str, torch.Tensor]
    config: dict
    meta: dict | None = None
    text_source: str | None = None
    told: tuple[int, str] | str | None = None
    tensors_digest: str = ""
    processor: Processor | None = None

    def preprocessing(self, mean=None, std=None) -> dict:
        """The record of how photographs become pixel values: by this `mean` and `std`, else by our record, else by the
        tower's own image processor, else as CLIP's. Raises `InputError` where another tower has none.
        """
        size, recorded = self.config["image_size"], (self.meta or {}).get("preprocessing")
        if recorded:
            recorded = checked_preprocessing({**recorded, "size": size}, size, self.source)
            own = recorded["mean"], recorded["std"]
        elif self.processor or is_clip(self.config):
            own = self.processor[1:] if self.processor else (CLIP_MEAN, CLIP_STD)
        elif mean and std:
            own = mean, std
        else:
            raise InputError(
                f"nothing tells mean and std of the pixels of {self.source}: put the preprocessor_config.json of its "
                "tower beside the config.json"
            )
        return preprocessing(size, mean or own[0], std or own[1])

    @property
    def num_classes(self) -> int | None:
        head = self.state_dict.get("classification_head.weight")
        return None if head is None else len(head)

    @cached_property
    def backbone_digest(self) -> str:
        """SHA-256 of the backbone, without the head; it takes a while for a large one and is asked for often."""
        return self._as_told(digest(self.backbone()))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all tensors. Of one file that was read as two towers the digests differ."""
        return self._as_told(self.tensors_digest or digest(self.state_dict))

    def _as_told(self, plain: str) -> str:
        return hashlib.sha256(f"{plain} {self.told}".encode()).hexdigest() if self.told else plain

    def backbone(self) -> dict[str, torch.Tensor]:
        """The tensors without the head."""
        return {name: t for name, t in self.state_dict.items() if not name.startswith(HEAD)}


def read_weights(source: str | Path, tower: tuple[int, str] | str | None = None) -> Weights:
    """Read a file, a Hugging Face folder or a hub id; `tower` tells what a file does not of its tower: heads and
    activation of CLIP's, or where the configuration of any lies.

    What has a record of ours is read only if its tensors are those that the record tells of. Raises `InputError` that
    names the file and, where it is about one, the tensor.
    """
    path = Path(source)
    if path.exists():
        read = partial(_read_file, tower=tower) if path.is_file() else _hugging_face
        return _unchanged(path, read)
    if may_be_hub_id(str(source)):
        return _hugging_face(HUB_NAMES.get(str(source), str(source)))
    raise InputError(f"{source} is no checkpoint file, no folder and no hub id")


def _unchanged(path: Path, read: Callable[[Path], Weights], again: bool = True) -> Weights:
    """What `read` makes of a path, with the digest of the tensors, which are looked at once in a file that stays as it
    is: a soup opens its ingredients many times. A file that is replaced meanwhile is read `again`, for two searches at
    once write the same soup. Raises `InputError` for one that is replaced then, too.
    """
    before = identity(path)
    weights = read(path)
    key = str(path.resolve()), weights.told, *before
    if key not in _DIGESTS:
        if weights.meta is None:
            check_finite(weights.state_dict, str(path))
        _DIGESTS[key] = digest(weights.state_dict)
    if identity(path) != before:
        if again:
            return _unchanged(path, read, again=False)
        raise InputError(f"{path} was replaced while it was read: run the same command again")
    found = _DIGESTS[key]
    if weights.meta is not None and found != (recorded := weights.meta["digest"]):
        raise InputError(
            f"{path} is damaged or was edited: its weights have the digest {found[:12]}, and its record tells of "
            f"{recorded[:12]}: copy it anew, or remove it and make it again"
        )
    return replace(weights, tensors_digest=found)


def _read_file(path: Path, tower: tuple[int, str] | str | None) -> Weights:
    content = read_archive(path)
    if not _is_own(content):
        if isinstance(tower, str):
            return _read_told(path, content, read_tower(tower))
        tensors, config, told = read_state_dict(str(path), content, tower)
        return Weights(str(path), tensors, config, told=told)
    config, meta = checked_config(_own_record(content, path)["model"], f"{path}, model"), content["meta"]
    return Weights(str(path), checked_tensors(content["state_dict"], str(path)), config, meta=meta)


def _read_told(path: Path, content: dict, tower: ToldTower) -> Weights:
    """A file without a record whose tower is told by a configuration; raises `InputError` if it is another one."""
    if not is_clip(tower.config):
        tensors = read_told(str(path), plain_tensors(content, str(path)), tower.config)
        return Weights(str(path), tensors, tower.config, told=as_text(tower.config), processor=tower.processor)
    heads = tower.config["num_attention_heads"], tower.config["hidden_act"]
    tensors, config, told = read_state_dict(str(path), content, heads)
    for key, value in config.items():
        if key != "projection_dim" and value != tower.config[key]:
            raise InputError(f"{path} has {key} {value}, and --tower-config tells of {tower.config[key]}")
    return Weights(str(path), tensors, config, told=told, processor=tower.processor)


def read_meta(path: Path) -> dict | None:
    """What our own file tells of itself, without its tensors; None for files of others and what cannot be read."""
    try:
        content = read_archive(path)
        return _own_record(content, path) if _is_own(content) else None
    except InputError:
        return None


def is_foreign(path: Path) -> bool:
    """Whether a file can be read and is none of our checkpoints."""
    try:
        return not _is_own(read_archive(path))
    except InputError:
        return False


def _own_record(content: dict, path: Path) -> dict:
    """The record in an archive of ours. Raises `InputError` when it, or what is beside it, is damaged."""
    tensors = content.get("state_dict")
    if not holds_tensors(tensors):
        raise InputError(f"{path} is damaged, it has a record and no tensors: remove it and make it again")
    return check_record(content["meta"], f"{HEAD}weight" in tensors, str(path))


def _is_own(content: dict) -> bool:
    """Whether an archive is one of our checkpoints."""
    return isinstance(content.get("meta"), dict) and "format" in content["meta"]


def read_archive(path: Path) -> dict:
    """A `torch.save` archive as a dict, memory-mapped; a pickle that wants to run code is refused and not run.

    A compressed archive, as some programs pack them anew, is read into memory.
    """
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: download or make it again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_mappable(path))
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} was refused: it is a pickle that holds more than tensors, or is damaged") from error
    except (RuntimeError, EOFError, LookupError, ValueError, AttributeError, zipfile.BadZipFile, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is what mapping a cut archive raises
            raise
        reason = (
            "is a TorchScript archive" if "TorchScript" in str(error) else "is no PyTorch checkpoint, or is damaged"
        )
        raise InputError(
            f"{path} {reason}: save its state_dict with torch.save, download it again, or remove it"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state_dict")
    return content


def _is_mappable(path: Path) -> bool:
    """Whether the tensors lie in a file as they are: in a zip archive, none of them compressed."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def read_kept_archive(path: Path) -> dict:
    """An archive of ours that nothing else tells the digest of: every byte is compared with the zip's CRC-32 first."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error})") from error
    if damaged:
        raise InputError(f"{path} is damaged ({damaged})")
    return read_archive(path)


def save_archive(path: Path, content: dict) -> None:
    """`torch.save` to `path`, atomically; what torch calls a `RuntimeError` of its writer is a disk that is full.

    Equal content makes equal bytes: given an open file, torch does not write the temporary name into the archive.
    """
    with atomic(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            raise OSError(errno.ENOSPC, f"cannot write {path.name}, is the disk full") from error


def _hugging_face(source: str | Path) -> Weights:
    """A hub id or folder of a tower, with or without text tower or projection."""
    tensors, tower = read_folder(str(source))
    tensors = checked_tensors(tensors, str(source))
    meta = read_exported_record(Path(source) / RECORD_FILE)
    text_source = str(source) if tower.whole["model_type"] == "clip" else None
    return Weights(str(source), tensors, tower.config, meta, text_source, processor=tower.processor)


def at_image_size(weights: Weights, image_size: int | None) -> Weights:
    """The weights for square images of `image_size` pixels, position embeddings interpolated; None stands for the size
    of the tower's image processor, or else its own.
    """
    patch = weights.config.get("patch_size", 1)
    if image_size is None and weights.processor:
        image_size = weights.processor.size
    if image_size is None or image_size == weights.config["image_size"]:
        return weights
    if image_size % patch:
        below = max(patch, image_size // patch * patch)
        raise InputError(f"--image-size {image_size} is no multiple of the patch size {patch}: try {below}")
    config = checked_config({**weights.config, "image_size": image_size}, f"--image-size {image_size}")
    if not is_clip(config):
        return replace(weights, state_dict=resized(weights.config, weights.state_dict, image_size), config=config)
    positions = resize_positions(weights.state_dict[POSITIONS], image_size // patch)
    return replace(weights, state_dict={**weights.state_dict, POSITIONS: positions}, config=config)
