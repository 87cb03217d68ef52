"""Samples and random media of every kind and mixture, without files: what prompts are built of."""

import numpy as np

from formats.sample import Sample
from media.decode import Media
from media.features import log_mel

SEVERAL = "Compare <image> and <video>, then <audio>: <image>?"

LETTERS = {"i": "image", "v": "video", "s": "video+sound", "a": "audio"}

LAYOUTS = [
    ("video+sound", {}),
    ("video+sound", {"seconds_per_group": 0.37, "frames": 14}),
    ("video+sound", {"seconds_per_group": 7.5, "seconds": 60.0}),
    ("video+sound", {"seconds_per_group": 2.0, "seconds": 3.1}),
    ("video+sound", {"seconds_per_group": 0.25, "seconds": 9.0, "size": (56, 56)}),
    ("video", {}),
    ("video", {"seconds_per_group": 3.3}),
    ("image", {"size": (56, 84)}),
    ("image+sound", {}),
    ("sound", {"seconds": 0.3}),
    ("several", {}),
    ("several", {"seconds_per_group": 0.5, "seconds": 9.0, "frames": 4}),
    ("video+sound", {"frames": 2, "seconds": 0.3}),
    ("video", {"frames": 2, "seconds_per_group": 0.5, "size": (140, 28)}),
    ("video+sound", {"seconds_per_group": 1.97}),  # 49 of a chunk's 50 positions
]

MIXTURES = [
    *("i", "v", "s", "a", "aia", "sa", "as", "ssi", "iisa", "vvi", "avia", "sv"),
    *("i s a i", "a s a", "v i a v", "s i s a", "v s a", "i s v i"),
]


def medium(kind, rng, frames, seconds, seconds_per_group, size) -> Media:
    """A random medium: image, video, video+sound or audio."""
    n_frames = 1 if kind == "image" else frames
    pixels = rng.integers(0, 256, (n_frames, *size, 3), dtype=np.uint8)
    sound = (0.1 * rng.standard_normal(int(seconds * 16_000))).astype(np.float32)
    mel = log_mel(sound, 64).numpy()
    return {
        "image": Media("image", pixels),
        "video": Media("video", pixels, None, seconds_per_group),
        "audio": Media("audio", mel=mel),
        "video+sound": Media("video", pixels, None, seconds_per_group, mel),
    }[kind]


def media_of(kind, frames=8, seconds=4.0, seconds_per_group=1.0, size=(28, 84)) -> list[Media]:
    """Random media for sample_of(kind), in the order of its `media`.

    several: the second picture is twice as high, the single sound half as long.
    """
    rng = np.random.default_rng(1)
    kinds = {
        "several": ["image", "video+sound", "audio", "image"],
        "image+sound": ["image", "audio"],
        "sound": ["audio"],
    }.get(kind, [kind])
    media = [medium(k, rng, frames, seconds, seconds_per_group, size) for k in kinds]
    if kind == "several":
        height, width = size
        media[2] = medium("audio", rng, frames, seconds / 2, 1.0, size)
        media[3] = medium("image", rng, frames, seconds, seconds_per_group, (2 * height, width))
    return media


def sample_of(kind) -> Sample:
    """A sample: video, image, image+sound, sound, video+sound (the video's own track), several."""
    paths = {
        "several": {"images": ["i", "j"], "videos": ["v"], "audios": ["a"]},
        "image+sound": {"images": ["i"], "audios": ["a"]},
        "sound": {"audios": ["a"]},
        "image": {"images": ["i"]},
    }.get(kind, {"videos": ["v"]})
    question = SEVERAL if kind == "several" else "How many?"
    return Sample("a", question, "numeric", "1", **paths)


def mixture(letters, factor=28) -> tuple[Sample, list[Media]]:
    """A sample and its media by letters: i image, v video, s video with sound, a audio; with blanks
    there is text between them. All differ in size, in steps of `factor` pixels."""
    rng = np.random.default_rng(len(letters))
    media = []
    for i, letter in enumerate(letters.replace(" ", "")):
        size = (factor * (1 + i % 2), factor * (3 - i % 3))
        seconds_per_group = (0.4, 1.0, 2.2)[i % 3]
        frames = 4 + 2 * (i % 2)
        media.append(medium(LETTERS[letter], rng, frames, 1.3 + 2 * i, seconds_per_group, size))
    paths = {"videos": [], "images": [], "audios": []}
    for i, m in enumerate(media):
        paths[f"{m.kind}s"].append(f"{m.kind}{i}")
    between = " then " if " " in letters else ""
    question = "Now " + between.join(f"<{m.kind}>" for m in media) + "?"
    return Sample("a", question, "free-form", "1", **paths), media


def every_layout(factor=28) -> list[tuple[Sample, list[Media]]]:
    """(sample, its media) of all LAYOUTS and MIXTURES, with tokens of `factor` pixels."""
    pairs = []
    for kind, shape in LAYOUTS:
        height, width = shape.get("size", (28, 84))
        size = (height * factor // 28, width * factor // 28)
        pairs.append((sample_of(kind), media_of(kind, **shape | {"size": size})))
    return pairs + [mixture(letters, factor) for letters in MIXTURES]


def grids_of(prompt, media, kind) -> list[tuple[int, int, int]]:
    """Those of a prompt's grids that belong to pictures ("image") or to videos ("video")."""
    shown = [m for m in media if m.frames is not None]
    return [grid for grid, m in zip(prompt.grids, shown, strict=True) if m.kind == kind]
