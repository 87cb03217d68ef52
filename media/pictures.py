"""media/pictures.py: a still picture -> pixels of red, green and blue, 8 bits each.

A file is opened as what its first bytes say, whatever its name, and as one of FORMATS only: Pillow
knows forty more, one of which starts another program (Ghostscript, for EPS).

    8 bits            as they are; a palette is looked up
    transparent       pasted over white, as Qwen's own code does and most pages show it: what is
                      stored under clear pixels is mostly black, and black strokes would vanish
    16 bits, grey     0 .. 65,535 become 0 .. 255
    32 bits, floats   grey, by the first of SCALES that holds the brightest pixel
    animated          the first frame
"""

import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from media.errors import MediaError, first_line

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")  # Pillow's names

# Pixels of a picture: above this, Pillow warns of a small file that fills the memory.
MOST_PIXELS = 89_478_485

# What white may be where pixels have 32 bits. No header tells it: floats mostly reach 1, and
# whole numbers 255 or 65,535.
SCALES = (1.0, 255.0, 65_535.0, 2.0**31 - 1)
OVERSHOOT = 0.1  # of white, by which resized floats leave their scale; it is cut off
NEARLY_BLACK = 0.04  # of white


def read_picture(path: str, where: str) -> np.ndarray:
    """(H, W, 3) uint8, turned as its EXIF says. where: the record's name. Raises MediaError."""
    try:
        # a folder of frames may hold a named pipe, and opening that waits for ever
        if not os.path.isfile(path):
            raise OSError("it is not a file")
        with Image.open(path, formats=FORMATS) as picture:
            # before a pixel is decoded
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width} x {height} pixels are more than {MOST_PIXELS:,}")
            # trap: what comes back from turning no longer knows its format
            widened = picture.mode == "I" and picture.format in ("PNG", "PPM")
            return rgb_pixels(ImageOps.exif_transpose(picture), widened)
    except Image.UnidentifiedImageError:
        reason = f"it is none of {', '.join(FORMATS)}, or damaged"
    # Pillow's decoders raise almost anything on a broken file
    except Exception as error:
        reason = first_line(error)
    raise MediaError(
        where,
        f"field 'image': cannot read {path} as a picture ({reason}); "
        "replace the file or remove the record",
        path,
    )


def is_webp(path: str) -> bool:
    """Whether a file is a WebP, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def read_moving_webp(path: str) -> tuple[list[float], Iterator[np.ndarray]]:
    """The seconds that each frame of a WebP stays, and the frames, (H, W, 3) uint8.

    Raises ValueError for frames that are too large, and what Pillow raises on a broken file.
    """
    with Image.open(path, formats=("WEBP",)) as picture:
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} pixels are more than {MOST_PIXELS:,}")
        seconds = []
        for frame in ImageSequence.Iterator(picture):
            frame.load()  # trap: only then is it known how long it stays
            seconds.append(frame.info.get("duration", 0) / 1000)
    return seconds, webp_frames(path)


def webp_frames(path: str) -> Iterator[np.ndarray]:
    """The frames of a WebP, one after the other."""
    with Image.open(path, formats=("WEBP",)) as picture:
        for frame in ImageSequence.Iterator(picture):
            yield rgb_pixels(frame, False)


def rgb_pixels(picture: Image.Image, widened: bool) -> np.ndarray:
    """(H, W, 3) uint8 of a picture of any mode. widened: Pillow made 32 bits of 16.

    Raises ValueError for pixels of no known scale.
    """
    # grey of 16 bits, of 32 bits, and floats
    if picture.mode.startswith(("I", "F")):
        mode = "I;16" if widened else picture.mode
        values = np.asarray(picture)  # (H, W)
        grey = grey_bytes(values, mode)  # (H, W)
        clear = picture.info.get("transparency")  # the grey that is transparent
        if isinstance(clear, int):
            grey[values == clear] = 255
        return np.repeat(grey[:, :, None], 3, axis=2)

    # trap: of 16 bits per colour Pillow keeps the upper 8, but all 16 of the transparent colour
    clear = picture.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:
        picture.info["transparency"] = tuple(value >> 8 for value in clear)
    if picture.has_transparency_data:
        return over_white(picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB"))


def over_white(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of an RGBA picture on a white ground."""
    ground = Image.new("RGB", picture.size, (255, 255, 255))
    ground.paste(picture, mask=picture.getchannel("A"))
    return np.asarray(ground)


def grey_bytes(values: np.ndarray, mode: str) -> np.ndarray:
    """(H, W) of more than 8 bits -> (H, W) uint8. mode: Pillow's name of the kind of pixels.

    Raises ValueError where no scale fits the values.

    >>> grey_bytes(np.array([[0, 257, 65_535]], np.uint16), "I;16")
    array([[  0,   1, 255]], dtype=uint8)
    """
    low = float(values.min())
    high = float(values.max())
    scales = SCALES
    if mode.startswith("I;16"):
        scales = (65_535.0,)
    elif mode == "I":
        scales = SCALES[1:]

    # The first scale that holds them all. One that leaves the brightest pixel nearly black is none.
    # trap: a NaN is neither below nor above anything, and finds no scale
    fitting = [s for s in scales if -OVERSHOOT * s <= low and high <= (1 + OVERSHOOT) * s]
    if not fitting or (fitting[0] > scales[0] and high < NEARLY_BLACK * fitting[0]):
        raise ValueError(
            f"its pixels run from {low:g} to {high:g}, which does not tell what white is; "
            "save it with 8 bits per colour"
        )
    scaled = values.astype(np.float32) * (255.0 / fitting[0])
    return np.rint(scaled).clip(0, 255).astype(np.uint8)
