import os
import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from conftest import draw_face
from PIL import ExifTags, Image

from utils.base.errors import InputError
from utils.data.decoding import check_complete, decode, mosaic

GREY = np.linspace(0, 255, 64).round().astype(np.uint8)[None].repeat(64, 0)  # from black to white
FACE = draw_face(0, 0, 25, 0)


def content_of(image, kind, **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values, bits, photometric=1, order="<"):
    """A grey TIFF of one strip, for what Pillow does not write."""
    height, width = 64, 64
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: height}
    tags[279] = len(values)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    begin = b"II*\0" if order == "<" else b"MM\0*"
    return begin + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4) + values


def twelve_bits(grey):
    a, b = np.moveaxis((grey.astype(np.uint32) * 4095 // 255).reshape(64, 32, 2), -1, 0)
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()


DEEP = GREY.astype(np.uint16) * 257
GREYS = {
    "8 bits": content_of(Image.fromarray(GREY), "png"),
    "16-bit PNG": content_of(Image.fromarray(DEEP), "png"),
    "16-bit TIFF": content_of(Image.fromarray(DEEP), "tiff"),
    "16-bit TIFF, packed": content_of(Image.fromarray(DEEP), "tiff", compression="tiff_lzw"),
    "16-bit TIFF, most significant byte first": tiff(DEEP.astype(">u2").tobytes(), 16, order=">"),
    "16-bit TIFF, white is zero": tiff((65535 - DEEP).astype("<u2").tobytes(), 16, photometric=0),
    "12-bit TIFF": tiff(twelve_bits(GREY), 12),
    "grey with alpha": content_of(Image.fromarray(GREY).convert("LA"), "png"),
    "CMYK": content_of(Image.fromarray(GREY).convert("RGB").convert("CMYK"), "tiff"),
    "a palette": content_of(Image.fromarray(GREY).convert("P"), "png"),
    "a palette, partly transparent": content_of(Image.fromarray(GREY).convert("P"), "png", transparency=bytes(256)),
}


@pytest.mark.parametrize("kind", GREYS)
def test_grey_is_the_same_grey_at_any_depth(kind, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(GREYS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        square = decode(path, 64)
    np.testing.assert_allclose(square, GREY[..., None].repeat(3, -1), atol=1)


def test_black_and_white_is_read(tmp_path):
    Image.fromarray(GREY > 127).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", 64)[0, [0, 63], 0].tolist() == [0, 255]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_without_a_known_range_are_refused(kind, tmp_path):
    Image.fromarray(GREY.astype(kind)).save(tmp_path / "x.jpg", "tiff")
    with pytest.raises(InputError, match=r"x\.jpg .*no known range: save it with 8 or 16 bits"):
        decode(tmp_path / "x.jpg", 8)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"])
def test_a_whole_image_is_read_whatever_its_suffix_and_half_of_it_is_not(kind, tmp_path):
    path = tmp_path / "x.jpg"
    FACE.save(path, kind)
    check_complete(path)
    np.testing.assert_allclose(decode(path, 8).mean((0, 1)), np.asarray(FACE).mean((0, 1)), atol=4)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut short|cannot decode"):
        check_complete(path)


JPEG, PNG = (content_of(FACE, kind) for kind in ("jpeg", "png"))


def test_of_an_ordinary_image_only_the_ends_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    for content in (JPEG, PNG):
        (tmp_path / "x").write_bytes(content)
        check_complete(tmp_path / "x")


NO_IMAGES = {
    "is empty": b"",
    "an HTML page": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
    "a Git LFS pointer, which `git lfs pull`": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "which is text": "얼굴".encode(),
    "nothing but zero bytes": bytes(5000),
    "an EPS drawing": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n\xff\xd9",
    "a HEIC photograph": b"\0\0\0\x18ftypheic" + bytes(99),
    "no JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF": bytes([1, 0, 2, 255] * 99),
}


@pytest.mark.parametrize("what", NO_IMAGES)
def test_what_is_no_image_is_called_what_it_is(what, tmp_path):
    (tmp_path / "x.jpg").write_bytes(NO_IMAGES[what])
    for look in (check_complete, lambda path: decode(path, 8)):
        with pytest.raises(InputError, match=rf"x\.jpg.* {what}"):
            look(tmp_path / "x.jpg")


@pytest.mark.parametrize("content", [JPEG[:100], JPEG[:-2], PNG[:-4]])
def test_a_lost_end_is_seen_without_decoding(content, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.jpg is cut short \(no end marker\)"):
        check_complete(tmp_path / "x.jpg")


def test_an_eps_starts_no_other_program(tmp_path, monkeypatch):
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    (tmp_path / "x.jpg").write_bytes(NO_IMAGES["an EPS drawing"])
    with pytest.raises(InputError):
        decode(tmp_path / "x.jpg", 8)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("look", [check_complete, lambda path: decode(path, 8)])
def test_what_may_never_end_is_not_opened(look, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zeros.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    with open(tmp_path / "giant.jpg", "wb") as file:
        file.truncate(2**31)  # takes no room
    for name, message in {"pipe": "a pipe, a device", "zeros": "a pipe, a device", "folder": "a folder"}.items():
        with pytest.raises(InputError, match=f"{name}.jpg is {message}"):
            look(tmp_path / f"{name}.jpg")
    with pytest.raises(InputError, match=r"giant\.jpg has 2\.1 GB"):
        look(tmp_path / "giant.jpg")


def test_a_photograph_is_turned_though_its_metadata_cannot_be_written_back(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0213] = 1  # a number ...
    content = content_of(FACE, "jpeg", exif=exif, quality=95)
    order = ">" if b"MM\0*" in content else "<"
    number, as_text = (struct.pack(f"{order}HHI", 0x0213, kind, 1) for kind in (3, 2))
    assert content.count(number) == 1
    (tmp_path / "x.jpg").write_bytes(content.replace(number, as_text))  # ... that calls itself text
    turned = np.asarray(FACE.transpose(Image.Transpose.ROTATE_270).resize((16, 16), Image.Resampling.BICUBIC))
    assert abs(decode(tmp_path / "x.jpg", 16) - turned.astype(int)).mean() < 5


def test_a_photograph_is_read_though_its_metadata_cannot(tmp_path):
    block = b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 24
    (tmp_path / "x.jpg").write_bytes(JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + JPEG[2:])
    (tmp_path / "y.jpg").write_bytes(JPEG)
    np.testing.assert_array_equal(decode(tmp_path / "x.jpg", 16), decode(tmp_path / "y.jpg", 16))


def test_photographs_lie_side_by_side_in_their_own_proportions(tmp_path):
    colours = {"red": (30, 40), "blue": (60, 20), "lime": (30, 40), "black": (30, 40)}  # 3 to 4, and one that is wide
    for name, size in colours.items():
        Image.new("RGB", size, name).save(tmp_path / f"{name}.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # upright when it is turned
    Image.new("RGB", (40, 30), "yellow").save(tmp_path / "yellow.jpg", exif=exif)
    paths = [tmp_path / name for name in ("red.png", "blue.png", "lime.png", "yellow.jpg", "black.png")]
    jpeg, size = mosaic(paths, large=1, cell=(30, 40))
    picture = Image.open(BytesIO(jpeg))
    assert picture.size == size == (4 * 30, 2 * 40)
    for place, colour in {
        (5, 5): (255, 0, 0), (55, 75): (255, 0, 0),  # two by two cells
        (75, 20): (0, 0, 255), (75, 5): (128, 128, 128), (75, 35): (128, 128, 128),  # wide, on grey
        (75, 60): (0, 255, 0), (92, 3): (255, 255, 0), (118, 37): (255, 255, 0), (105, 60): (0, 0, 0),
    }.items():  # fmt: skip
        assert np.abs(np.subtract(picture.getpixel(place), colour)).max() < 12, place
    assert mosaic(paths[:1], large=1, cell=(30, 40))[1] == (60, 80)
    assert mosaic(paths[:4], large=2, cell=(30, 40))[1] == (150, 80)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.jpg"):
        mosaic([tmp_path / "text.jpg"], large=1, cell=(30, 40))
