"""Weights from elsewhere, brought to one form: tensors under their Hugging Face hub names, and a model config.

Read are model-soups release files, OpenAI-format CLIP state dicts, hub ids and folders, and our own checkpoints, all
told apart by their tensor names. Nothing is unpickled that `weights_only=True` refuses.
"""

import errno
import hashlib
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from utils.base.errors import InputError
from utils.base.files import atomic, identity
from utils.base.flags import RECORD_FILE
from utils.models.clip import CONFIG_KEYS, resize_positions
from utils.models.record import check_record, read_exported_record
from utils.models.starts import HUB_NAMES

HEAD = "classification_head."
HEAD_FILE = "classification_head.safetensors"  # beside the tower in an exported folder
_DIGESTS = {}  # of the weights at a path, by what tells whether it was replaced
POSITIONS = "vision_model.embeddings.position_embedding.weight"
TEXT_TOWER = re.compile(  # in OpenAI's and in the hub's names; the scalars come with OpenAI's TorchScript archives
    r"positional_embedding|text_projection(\.weight)?|logit_scale|token_embedding\.weight|ln_final\.(weight|bias)"
    r"|transformer\..*|text_model\..*|input_resolution|context_length|vocab_size"
    r"|vision_model\.embeddings\.position_ids"
)
OPENAI_RENAMES = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", POSITIONS),
    (r"^visual\.conv1\.weight$", "vision_model.embeddings.patch_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (
        r"^visual\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.",
        r"vision_model.encoder.layers.\1.self_attn.out_proj.",
    ),
    (r"^visual\.transformer\.resblocks\.(\d+)\.ln_([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"vision_model.encoder.layers.\1.mlp.fc1."),
    (r"^visual\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"vision_model.encoder.layers.\1.mlp.fc2."),
)


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

    `config` holds `clip.CONFIG_KEYS`; `meta` is our own record, None for files of others; `text_source` is the hub id
    or folder whose text tower can make a zero-shot head. `digest` is that of the tensors as they were read.
    """

    source: str
    state_dict: dict[str, torch.Tensor]
    config: dict
    meta: dict | None = None
    text_source: str | None = None
    digest: str = ""

    @property
    def num_classes(self) -> int | None:
        head = self.state_dict.get("classification_head.weight")
        return None if head is None else len(head)

    @cached_property
    def backbone_digest(self) -> str:
        """SHA-256 of the backbone, without the head; it takes a while for a large one and is asked for often."""
        return digest(self.backbone())

    def backbone(self) -> dict[str, torch.Tensor]:
        """The tensors without the head."""
        return {name: t for name, t in self.state_dict.items() if not name.startswith(HEAD)}


def read_weights(source: str | Path) -> Weights:
    """Read a file, a Hugging Face folder or a hub id.

    What has a record of ours is read only if its tensors are those that the record tells of. Raises `InputError` that
    names the file and, where it is about one, the tensor.
    """
    path = Path(source)
    if path.exists():
        return _unchanged(path, _read_file if path.is_file() else lambda folder: _hugging_face(str(folder)))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        return _hugging_face(HUB_NAMES.get(str(source), str(source)))
    raise InputError(f"{source} is no checkpoint file, no folder and no hub id")


def _unchanged(path: Path, read: Callable[[Path], Weights]) -> Weights:
    """What `read` makes of a path, with the digest of the tensors. It is computed once for a file that stays as it is:
    a soup opens its ingredients many times. Raises `InputError` for a file that is replaced meanwhile.
    """
    before = identity(path)
    weights = read(path)
    key = str(path.resolve()), *before
    if key not in _DIGESTS:
        _DIGESTS[key] = digest(weights.state_dict)
    if identity(path) != before:
        raise InputError(f"{path} was replaced while it was read: run the same command again")
    found = _DIGESTS[key]
    if weights.meta is not None and found != (told := weights.meta["digest"]):
        raise InputError(
            f"{path} is damaged or was edited: its weights have the digest {found[:12]}, and its record tells of "
            f"{told[:12]}: copy it anew, or remove it and make it again"
        )
    return replace(weights, digest=found)


def _read_file(path: Path) -> Weights:
    content = read_archive(path)
    if not _is_own(content):
        return _foreign(str(path), content.get("state_dict", content))
    check_record(content["meta"], str(path))
    tensors = content.get("state_dict")
    if not _is_flat(tensors):
        raise InputError(f"{path} is damaged, it has a record and no tensors: remove it and make it again")
    return Weights(str(path), tensors, content["meta"]["model"], meta=content["meta"])


def read_meta(path: Path) -> dict | None:
    """What our own file tells of itself, without its tensors; None for files of others and what cannot be read."""
    try:
        content = read_archive(path)
        return check_record(content["meta"], str(path)) if _is_own(content) else None
    except InputError:
        return None


def _is_own(content: dict) -> bool:
    """Whether an archive is one of our checkpoints."""
    return isinstance(content.get("meta"), dict) and "format" in content["meta"]


def _is_flat(tensors: object) -> bool:
    """Whether this is a state dict: tensors by name."""
    return (
        isinstance(tensors, dict)
        and bool(tensors)
        and all(isinstance(name, str) for name in tensors)
        and all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    )


def read_archive(path: Path) -> dict:
    """Memory-map a `torch.save` archive as a dict; a pickle that wants to run code is refused and not run."""
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: download or make it again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} was refused: it is a pickle that holds more than tensors, or is damaged") from error
    except (RuntimeError, EOFError, LookupError, ValueError, AttributeError, OSError) as error:
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


def _foreign(source: str, tensors: dict) -> Weights:
    """A state dict of others: strip the prefixes, drop the text tower, rename."""
    if not _is_flat(tensors):
        raise InputError(f"{source} is not a flat state_dict of tensors")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): t for name, t in tensors.items()}
    tensors = {name.removeprefix("model."): t for name, t in tensors.items()}
    tensors = {name: t.float() for name, t in tensors.items() if not TEXT_TOWER.fullmatch(name)}
    if "visual.conv1.weight" in tensors:
        tensors = from_openai(tensors, source)
    elif POSITIONS not in tensors:
        raise InputError(f"{source} holds no CLIP vision transformer: neither visual.conv1.weight nor {POSITIONS}")
    return Weights(source, tensors, _config_from_shapes(tensors, source))


def from_openai(tensors: dict[str, torch.Tensor], source: str = "state_dict") -> dict[str, torch.Tensor]:
    """Rename OpenAI's vision tensors (`visual.*`) to the hub's names.

    The projection is transposed and the joint query-key-value matrices are cut into three. Raises `InputError` with
    the name of a tensor that belongs nowhere.
    """
    renamed = {}
    for name, tensor in tensors.items():
        joint = re.fullmatch(r"visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
        if joint:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"vision_model.encoder.layers.{joint[1]}.self_attn.{part}_proj.{joint[2]}"] = piece
        elif name == "visual.proj":
            renamed["visual_projection.weight"] = tensor.T.contiguous()
        elif name.startswith(HEAD):
            renamed[name] = tensor
        else:
            new_name = next((re.sub(old, new, name) for old, new in OPENAI_RENAMES if re.search(old, name)), None)
            if new_name is None:
                raise InputError(f"{source}: unexpected tensor {name}")
            renamed[new_name] = tensor
    return renamed


def _config_from_shapes(tensors: dict[str, torch.Tensor], source: str) -> dict:
    """Width, patch, layers and resolution follow from tensor shapes; heads = width / 64; QuickGELU as in OpenAI's."""
    layers = {int(m[1]) for name in tensors if (m := re.match(r"vision_model\.encoder\.layers\.(\d+)\.", name))}
    try:
        width, _, patch, _ = tensors["vision_model.embeddings.patch_embedding.weight"].shape
        grid = round((len(tensors[POSITIONS]) - 1) ** 0.5)
        return {
            "hidden_size": width,
            "intermediate_size": len(tensors["vision_model.encoder.layers.0.mlp.fc1.weight"]),
            "num_hidden_layers": len(layers),
            "num_attention_heads": max(1, width // 64),
            "image_size": grid * patch,
            "patch_size": patch,
            "projection_dim": len(tensors["visual_projection.weight"]),
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        }
    except KeyError as error:
        raise InputError(f"{source}: missing tensor {error.args[0]}") from None


def _hugging_face(source: str) -> Weights:
    """A hub id or folder of a CLIP model, with or without text tower."""
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, CLIPModel, CLIPVisionModelWithProjection, logging

    logging.set_verbosity_error()  # what is missing or left over is checked below
    classes = {"clip": CLIPModel, "clip_vision_model": CLIPVisionModelWithProjection}
    try:
        model_type = AutoConfig.from_pretrained(source).model_type
        if model_type not in classes:
            raise InputError(f"{source} is a {model_type} model, not CLIP")
        model, loading = classes[model_type].from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except InputError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load {source} from disk or the Hugging Face hub: {error}") from error
    for what in ("missing", "mismatched", "unexpected"):
        names = (name if isinstance(name, str) else name[0] for name in loading[f"{what}_keys"])
        wrong = sorted(name for name in names if what != "unexpected" or not _is_leftover(name))
        if wrong:
            raise InputError(f"{source}: {what} tensor {wrong[0]}")
    vision = {
        **getattr(model.config, "vision_config", model.config).to_dict(),
        "projection_dim": model.config.projection_dim,
    }
    state_dict = {name: t.detach() for name, t in model.state_dict().items() if not TEXT_TOWER.fullmatch(name)}
    for path in sorted(Path(source).glob("*.safetensors")):  # transformers knows of no such head and passes it over
        with safe_open(path, "pt") as file:
            state_dict |= {
                name: file.get_tensor(name).float() for name in sorted(file.keys()) if name.startswith(HEAD)
            }
    meta = read_exported_record(Path(source) / RECORD_FILE)
    text_source = source if model_type == "clip" else None
    return Weights(source, state_dict, {key: vision[key] for key in CONFIG_KEYS}, meta, text_source)


def _is_leftover(name: str) -> bool:
    """Whether a tensor of a Hugging Face folder belongs to the text tower or to our head."""
    return bool(TEXT_TOWER.fullmatch(name)) or name.startswith(HEAD)


def at_image_size(weights: Weights, image_size: int | None) -> Weights:
    """The weights for square images of `image_size` pixels (None: unchanged), position embeddings interpolated."""
    patch = weights.config["patch_size"]
    if image_size is None or image_size == weights.config["image_size"]:
        return weights
    if image_size % patch:
        below = max(patch, image_size // patch * patch)
        raise InputError(f"--image-size {image_size} is no multiple of the patch size {patch}: try {below}")
    state_dict = dict(weights.state_dict)
    state_dict[POSITIONS] = resize_positions(state_dict[POSITIONS], image_size // patch)
    config = {**weights.config, "image_size": image_size}
    return Weights(weights.source, state_dict, config, weights.meta, weights.text_source)
