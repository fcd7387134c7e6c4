"""Pages that are one file: a template beside this file with its style, script and pictures, which loads nothing."""

import base64
import math
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from utils.base.errors import visible
from utils.base.files import write_text


def write_page(path: Path, template: str, contents: dict) -> Path:
    """Write a template's page to `path`, atomically. All texts in it are escaped, control characters shown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= {"decimals": decimals, "percent": percent, "breakable": breakable}
    return write_text(path, environment.get_template(template).render(contents))


def data_url(jpeg: bytes) -> Markup:
    """A picture as an address that holds it, which needs no escaping: that would take a minute for thousands."""
    return Markup(f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}")


def decimals(value: float) -> str:
    """Three decimals, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def percent(part: float, whole: float = 1) -> str:
    """A part of the whole as per cent, or a dash where there is nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def breakable(name: str) -> Markup:
    """A name that breaks between its parts, and not inside an age."""
    return Markup("<wbr>").join(re.split(r"(?<=[_/])", visible(name)))
