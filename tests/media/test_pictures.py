"""Still pictures: which files are opened, and what becomes of more than 8 bits, palettes and moving
pictures; by numbers worked by hand."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from media import pictures
from media.errors import MediaError
from media.pictures import FORMATS, read_picture


def grey_of(path) -> list[int]:
    """The first row of a grey picture."""
    pixels = read_picture(str(path), "here")  # (H, W, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[:1, :, :1]).all()  # all rows and colours are alike
    return pixels[0, :, 0].tolist()


def row(*values, dtype) -> Image.Image:
    """A picture of two equal rows."""
    return Image.fromarray(np.array([values, values], dtype))


# ------------------------------------------------------------------ more than 8 bits
@pytest.mark.parametrize("name", ["g.png", "g.tif", "g.ppm"])
def test_grey_of_16_bits(tmp_path, name):
    """65,535 is white: 257 steps of 16 bits are one of 8."""
    row(0, 257, 128 * 257, 65_534, 65_535, dtype=np.uint16).save(tmp_path / name)
    assert grey_of(tmp_path / name) == [0, 1, 128, 255, 255]


@pytest.mark.parametrize("name", ["g.png", "g.tif", "g.ppm"])
def test_a_dark_picture_of_16_bits_stays_dark(tmp_path, name):
    row(0, 128, 129, 300, dtype=np.uint16).save(tmp_path / name)
    assert grey_of(tmp_path / name) == [0, 0, 1, 1]


def test_a_big_endian_tiff(tmp_path):
    Image.fromarray(np.array([[0, 257, 65_535]], ">u2")).save(tmp_path / "g.tif")
    assert grey_of(tmp_path / "g.tif") == [0, 1, 255]


def test_a_ramp_of_16_bits_is_a_ramp(tmp_path):
    ramp = np.linspace(0, 65_535, 168).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (112, 1))).save(tmp_path / "g.png")
    assert np.abs(np.array(grey_of(tmp_path / "g.png")) - np.linspace(0, 255, 168)).max() < 0.51


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ((0, 0.5, 1), np.float32, [0, 128, 255]),
        ((-0.02, 0.5, 1.05), np.float32, [0, 128, 255]),  # a resized picture leaves its scale
        ((0, 0.1, 0.2), np.float32, [0, 26, 51]),
        ((0, 10.4, 255), np.float32, [0, 10, 255]),
        ((0, 257, 65_535), np.float32, [0, 1, 255]),
        ((0, 7, 20), np.int32, [0, 7, 20]),
        ((0, 257, 65_535), np.int32, [0, 1, 255]),
        ((0, 2**30, 2**31 - 1), np.int32, [0, 128, 255]),
    ],
)
def test_32_bits_by_their_brightest_pixel(tmp_path, values, dtype, expected):
    row(*values, dtype=dtype).save(tmp_path / "g.tif")
    assert grey_of(tmp_path / "g.tif") == expected


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((0, 3), np.float32),  # of 1, or of 255?
        ((0, np.nan), np.float32),
        ((0, np.inf), np.float32),
        ((-40, 60), np.float32),
        ((-300, 60), np.int32),
    ],
)
def test_pixels_of_no_known_scale(tmp_path, values, dtype):
    row(*values, dtype=dtype).save(tmp_path / "g.tif")
    with pytest.raises(MediaError, match="does not tell what white is; save it with 8 bits"):
        read_picture(str(tmp_path / "g.tif"), "here")


# ------------------------------------------------------------------ other modes
def test_a_palette_with_transparency(tmp_path):
    """The palette's colours over white, without a word of Pillow's."""
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    indexed.putpalette([200, 100, 0, 0, 50, 250])
    indexed.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_picture(str(tmp_path / "p.png"), "here")
    # clear, and 128 / 255 of the colour: 127, 127 + 25.1, 127 + 125.5
    assert pixels.tolist() == [[[255, 255, 255], [127, 152, 252]]]


def test_grey_with_transparency_and_cmyk(tmp_path):
    Image.fromarray(np.array([[[10, 0], [200, 255]]], np.uint8), "LA").save(tmp_path / "a.png")
    assert grey_of(tmp_path / "a.png") == [255, 200]
    # no ink is white, and all of cyan leaves no red
    Image.fromarray(np.array([[[0, 0, 0, 0], [255, 0, 0, 0]]], np.uint8), "CMYK").save(
        tmp_path / "c.tif"
    )
    pixels = read_picture(str(tmp_path / "c.tif"), "here")
    assert pixels.tolist() == [[[255, 255, 255], [0, 255, 255]]]


def strokes() -> Image.Image:
    """A clear ground, black below, with a black square and a half clear red one."""
    pixels = np.zeros((60, 60, 4), np.uint8)
    pixels[20:40, 20:40, 3] = 255
    pixels[45:55, 45:55] = (200, 0, 0, 128)
    return Image.fromarray(pixels, "RGBA")


@pytest.mark.parametrize("name", ["p.png", "p.webp", "p.tif", "p.avif"])
def test_black_strokes_on_a_clear_ground_lie_over_white(tmp_path, name):
    options = {"quality": 100} if name == "p.avif" else {}
    strokes().save(tmp_path / name, **options, **({"lossless": True} if "webp" in name else {}))
    pixels = read_picture(str(tmp_path / name), "here").astype(int)
    assert np.abs(pixels[5, 5] - 255).max() <= 2
    assert pixels[30, 30].max() <= 2
    # by hand: 128 / 255 of 200 and 127 / 255 of 255
    assert np.abs(pixels[50, 50] - [227, 127, 127]).max() <= 4


@pytest.mark.parametrize("name", ["p.gif", "palette.png", "grey.png", "grey.webp"])
def test_clear_pixels_of_other_modes_are_white(tmp_path, name):
    picture = strokes()
    if name == "palette.png":
        picture = picture.quantize(8)
    if "grey" in name:
        picture = picture.convert("LA")
    picture.save(tmp_path / name, lossless=True)
    pixels = read_picture(str(tmp_path / name), "here")
    assert pixels[5, 5].tolist() == [255, 255, 255]
    assert pixels[30, 30].tolist() == [0, 0, 0]


def png(depth: int, kind: int, row: bytes, clear: bytes) -> bytes:
    """A PNG of two pixels in one row, and the colour that is transparent."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0)),
        (b"tRNS", clear),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        content += struct.pack(">I", len(body)) + name + body
        content += struct.pack(">I", zlib.crc32(name + body))
    return content


@pytest.mark.parametrize(
    ("depth", "kind", "row", "clear", "expected"),
    [
        (8, 0, b"\0\x64", b"\0\0", [255, 100]),  # grey: black is clear
        (16, 0, b"\0\0\x80\x80", b"\0\0", [255, 128]),
        (8, 2, b"\0\0\0\x64\x64\x64", bytes(6), [255, 100]),  # colours
        (16, 2, b"\x80\0" * 3 + b"\x64\x64" * 3, b"\x80\0" * 3, [255, 100]),
    ],
)
def test_one_colour_that_is_transparent(tmp_path, depth, kind, row, clear, expected):
    (tmp_path / "p.png").write_bytes(png(depth, kind, row, clear))
    assert grey_of(tmp_path / "p.png") == expected


@pytest.mark.parametrize("name", ["m.gif", "m.png", "m.webp", "m.tif"])
def test_the_first_frame_of_a_moving_picture(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), (grey, grey, grey)) for grey in (40, 90, 140)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert set(grey_of(tmp_path / name)) == {40}


# ------------------------------------------------------------------ which files
@pytest.mark.parametrize("form", FORMATS)
def test_the_formats_whatever_the_name(tmp_path, form):
    path = tmp_path / "p.xyz"
    Image.new("RGB", (16, 16), (90, 90, 90)).save(path, format=form)
    assert np.abs(np.array(grey_of(path)) - 90).max() <= 2


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


@pytest.mark.parametrize(
    "content",
    [
        EPS,
        struct.pack("<IIIIIIII", 0xC6D3D0C5, 32, len(EPS), 0, 0, 0, 0, 0) + EPS,  # DOS EPS
        b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x08\0\0\0\x08\0\x08\0\3" + bytes(40),  # PSD
        b"\xd7\xcd\xc6\x9a" + bytes(40),  # WMF
        b"#EXTM3U\n",
        b"",
    ],
)
def test_other_files_are_refused_under_any_name(tmp_path, monkeypatch, content):
    """And no program is started for them."""
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *args, **kw: pytest.fail("started"))
    path = tmp_path / "p.png"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"cannot read .*p.png as a picture \(it is none of JPEG"):
        read_picture(str(path), "here")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("L", (101, 100)).save(tmp_path / "p.png")
    assert read_picture(str(tmp_path / "p.png"), "here").shape == (100, 101, 3)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 10_000)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(MediaError, match="101 x 100 pixels are more than 10,000"):
        read_picture(str(tmp_path / "p.png"), "here")


def test_a_picture_cut_short(tmp_path):
    Image.effect_noise((64, 64), 90).save(tmp_path / "p.png")
    content = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").write_bytes(content[:2000])
    with pytest.raises(MediaError, match="replace the file or remove the record"):
        read_picture(str(tmp_path / "p.png"), "here")
