"""The page of `inference.py --demo`: a photograph in; out come its class, its attributes, and what each member says.

All but `page_of` and `serve` know nothing of gradio, which is installed only by those who want the page.
"""

from __future__ import annotations

import base64
import logging
import os
import threading
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import jinja2
import numpy as np
from PIL import Image

from utils.base.errors import InputError
from utils.data import competition
from utils.data.decoding import check_complete, decode, thumbnail
from utils.data.labels import Labelling
from utils.evaluation.scores import log_softmax

if TYPE_CHECKING:
    from accelerate import Accelerator

    from utils.ensembles.members import Ensemble
    from utils.models.checkpoints import Checkpoint
    from utils.models.clip import Classifier

log = logging.getLogger(__name__)


MEGABYTES = 20  # of a file at most
MEGAPIXELS = 64  # of a photograph at most: phones take 50
FORMATS = ("JPEG", "PNG")  # of an upload; from the disk more are read
MOST_VALUES = 10  # of an attribute
SIDE = 240  # pixels of the longer side of the photograph beside its answer
NOTHING_YET = "<p>The answer comes here.</p>"
KEPT = 60  # seconds after which gradio removes an upload that nobody asked about


@dataclass(frozen=True)
class MemberAnswer:
    """What one model says: the value of each attribute it knows, by name, and the probability of that class."""

    name: str
    values: dict[str, str]
    probability: float


@dataclass(frozen=True)
class Answer:
    """What the ensemble says of a photograph, and what its members do.

    `class_id` is what the submission gets, `probs` (C,) what `--save-probs` writes, up to float32 rounding.
    """

    class_id: int
    probs: np.ndarray
    labelling: Labelling
    members: list[MemberAnswer]

    @property
    def values(self) -> dict[str, int]:
        """The value of each attribute of the class."""
        return {name: int(value) for name, value in self.labelling.decode(self.class_id).items()}

    def of_attribute(self, name: str) -> np.ndarray:
        """(K,) probabilities of an attribute's values, each the sum over its classes.

        The largest need not be that of the class: the likeliest class of all may be of another age than most.
        """
        others = tuple(axis for axis, one in enumerate(self.labelling.attributes) if one != name)
        return self.probs.reshape(self.labelling.shape).sum(others)

    def shown(self, name: str) -> list[int]:
        """The values of an attribute that the page shows: all in their order, of many the most probable first."""
        probs = self.of_attribute(name)
        return list(range(len(probs))) if len(probs) <= MOST_VALUES else np.argsort(-probs)[:MOST_VALUES].tolist()


def check_ready(processes: int) -> None:
    """Raise `InputError` under several processes, and without gradio; called before torch is imported."""
    if processes > 1:
        raise InputError("--demo is one page of one process: start it as python inference.py --demo")
    try:
        installed = version("gradio")
    except PackageNotFoundError:
        installed = "0"
    if int(installed.partition(".")[0]) < 6:  # under some constraints pip chooses one that is years old
        raise InputError('--demo needs the package, from version 6 on: pip install "gradio>=6"')


class Demo:
    """An ensemble whose models are all loaded, once; its variants with mirror images share theirs."""

    def __init__(self, accelerator: Accelerator, ensemble: Ensemble):
        self.accelerator, self.ensemble = accelerator, ensemble
        self.models: dict[str, Classifier] = {}
        for one in ensemble.models:
            if one.digest not in self.models:
                self.models[one.digest] = one.build()

    def answer(self, photograph: Path) -> Answer:
        """Raises `InputError` for a file that `read_photograph` refuses."""
        models = self.ensemble.models
        squares = read_photograph(photograph, {one.preprocessing["size"] for one in models})
        logits = [self._logits(squares[one.preprocessing["size"]], one) for one in models]
        logits = self.ensemble.of_members(logits)
        scores = self.ensemble.combine(logits)
        return Answer(
            class_id=int(scores[0].argmax()),
            probs=self.ensemble.to_probs(scores)[0],
            labelling=self.ensemble.labelling,
            members=[member_answer(member, own) for member, own in zip(self.ensemble.members, logits, strict=True)],
        )

    def _logits(self, square: np.ndarray, one: Checkpoint) -> np.ndarray:
        """(1, C); a batch of one, since the submission's batches of 16 would be 16 times the work."""
        from utils.evaluation import prediction

        model, rows = self.models[one.digest], np.arange(1)
        return prediction.predict(self.accelerator, model, square[None], rows, one.preprocessing, batch_size=1)


def member_answer(member: Checkpoint, logits: np.ndarray) -> MemberAnswer:
    """What a member says by itself, of its (1, C) logits."""
    labelling, pred = member.labelling, int(logits[0].argmax())
    values = {name: labelling.values[name][value] for name, value in labelling.decode(pred).items()}
    return MemberAnswer(member.name, values, float(np.exp(log_softmax(logits)[0, pred])))


def read_photograph(path: Path, sizes: set[int]) -> dict[int, np.ndarray]:
    """The photograph as a square of each size, decoded as for the submission.

    Raises `InputError`, in words for whoever chose the file, unless it is a whole JPEG or PNG of a sane size. The
    number of pixels is read from the file's head: a decompression bomb is never decoded.
    """
    try:
        megabytes = path.stat().st_size / 1e6
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise InputError(f"The photograph has far more than the {MEGAPIXELS} million pixels allowed.") from None
    except FileNotFoundError:
        raise InputError("The upload is gone, perhaps answered in another window: send it again.") from None
    except (OSError, SyntaxError, ValueError):
        raise InputError("This file is no JPEG or PNG photograph: choose another one.") from None
    if megabytes > MEGABYTES:
        raise InputError(f"The file has {megabytes:.1f} MB, and {MEGABYTES} are allowed: choose a smaller one.")
    if width * height > MEGAPIXELS * 1e6:
        raise InputError(f"The photograph has {width} x {height} pixels, and {MEGAPIXELS} million are allowed.")
    try:
        check_complete(path)
        return {size: decode(path, size) for size in sizes}
    except InputError as error:
        raise InputError("The photograph is cut short or damaged: choose another one.") from error


def as_html(demo: Demo, photograph: Path) -> str:
    """The answer, or what is wrong with the photograph, for the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("demo_answer.html")
    try:
        answer = demo.answer(photograph)
    except InputError as error:
        return template.render(mistake=str(error))
    picture, size = thumbnail(photograph, SIDE)
    return template.render(
        mistake=None,
        answer=answer,
        picture=base64.b64encode(picture).decode(),
        size=size,
        shares=demo.ensemble.rule == "minmax",
    )


def words_about(labelling: Labelling) -> tuple[str, str]:
    """The title of the page, and what it is."""
    if competition.is_its(labelling):
        return competition.ABOUT
    return " and ".join(labelling.attributes).capitalize(), "A guess from one photograph, by a model."


def page_of(demo: Demo):
    """The gradio page. A photograph is removed from the disk as soon as it is answered, and shown from memory."""
    import gradio

    def ask(upload: dict | None) -> tuple[None, str]:
        """An empty input for the next photograph, and the answer to this one."""
        if upload is None:  # cleared by hand
            return None, NOTHING_YET
        photograph = Path(upload["path"])  # in the folder of uploads: gradio refuses any other
        try:
            return None, as_html(demo, photograph)
        finally:
            photograph.unlink(missing_ok=True)

    title, about = words_about(demo.ensemble.labelling)
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gradio.Markdown(f"# {title}\n{about} Photographs are not kept.")
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(
                    label="Photograph: JPEG or PNG", sources=["upload", "webcam", "clipboard"], height=260, buttons=[]
                )
            with gradio.Column():
                read_out = "element.setAttribute('aria-live', 'polite')"
                answer = gradio.HTML(NOTHING_YET, elem_id="answer", apply_default_css=False, js_on_load=read_out)
        # Without preprocessing gradio does not open the file itself, whose errors would not say much.
        picture.input(ask, picture, [picture, answer], preprocess=False, api_name="answer")
    return page


def serve(accelerator: Accelerator, ensemble: Ensemble, address: tuple[str, int]) -> None:
    """Show the page at `address`, a host and a port, until Ctrl-C; raises `InputError` when that cannot be had."""
    import httpx  # with which gradio looks whether its page is there

    if not ensemble.labelling.attributes:
        raise InputError(f"--demo shows attributes, and {ensemble.name} tells names of classes only: leave it out")
    host, port = address
    demo = Demo(accelerator, ensemble)
    with TemporaryDirectory(ignore_cleanup_errors=True) as uploads:  # gradio's own would be open to all users
        os.environ |= {
            "GRADIO_TEMP_DIR": uploads,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_RUN_HISTORY": "False",
            "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), host, "localhost"))),
        }
        page = page_of(demo)
        try:
            page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=f"{MEGABYTES}mb",
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                footer_links=[],
            )
            log.info("%s at http://%s:%d, Ctrl-C ends it", ensemble.name, host, port)
            threading.Event().wait()
        except (OSError, httpx.HTTPError) as error:
            raise InputError(f"no page can be opened at {host}:{port}: give --demo another host or port") from error
        except KeyboardInterrupt:
            log.info("the page is closed")
        finally:
            page.close(verbose=False)
