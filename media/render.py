"""media/render.py: how a scene of the toy world looks and sounds, written as an .mp4.

In toy.py a scene is names and beats, from which questions are made; here it becomes pixels and a
wave, on which no question depends. `scene` is a toy.Scene and `shape` a toy.Shape; the types are
not written, since toy.py imports this file. A clip is 4 beats of one second: 32 frames of three
cells side by side, and a mono sound track.
"""

import os
from pathlib import Path

import av
import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

BEATS = 4
BEAT_SECONDS = 1.0
VIDEO_FPS = 8
CELL = 56  # pixels
SAMPLE_RATE = 16_000

# The names of the world, and how each is drawn or sounds.
FLOORS = {"left": (150, 60, 20), "centre": (20, 120, 120), "right": (150, 40, 150)}
COLOURS = {
    "red": (225, 45, 45),
    "green": (40, 190, 70),
    "blue": (60, 90, 240),
    "yellow": (235, 215, 50),
}
PITCHES = {"low": 300.0, "mid": 800.0, "high": 2200.0}  # Hz


def write_clip(path: Path, scene, rng: Generator) -> None:
    """Render a toy.Scene as an .mp4. rng: for the noise of the sound."""
    frames = render_frames(scene)
    sound = render_sound(scene, rng)
    write_mp4(path, frames, VIDEO_FPS, sound, SAMPLE_RATE)


def draw_cell(place: str, shape, beat: int) -> np.ndarray:
    """One place during one beat, (56, 56, 3) uint8: wall, floor, the shape at rest or moving."""
    # Day breaks over the four seconds: the wall gets lighter, so that a frame alone tells its time.
    cell = Image.new("RGB", (CELL, CELL), (16 + 32 * beat,) * 3)
    pen = ImageDraw.Draw(cell)
    pen.rectangle((0, 48, CELL, CELL), fill=FLOORS[place])
    if shape is None:
        return np.asarray(cell)

    # a shape moves in the beats that are "1"
    moving = shape.beats[beat] == "1"
    top = 2 if moving and shape.act == "hop" else 20
    if moving and shape.act == "flash":
        pen.rectangle((4, 4, 52, 47), fill=(250, 250, 250))
    colour = COLOURS[shape.colour]
    if shape.shape == "square":
        pen.rectangle((13, top, 43, top + 27), fill=colour)
    elif shape.shape == "disc":
        pen.ellipse((19, top + 9, 37, top + 27), fill=colour)
    else:
        pen.polygon(((28, top), (51, top + 27), (5, top + 27)), fill=colour)
    return np.asarray(cell)


def render_frames(scene) -> np.ndarray:
    """All frames of the clip, (32, 56, 168, 3) uint8. They are the same throughout a beat."""
    pictures = []
    for beat in range(BEATS):
        cells = [draw_cell(place, scene.at(place), beat) for place in FLOORS]
        pictures.append(np.concatenate(cells, axis=1))  # (56, 168, 3)
    return np.repeat(np.stack(pictures), int(VIDEO_FPS * BEAT_SECONDS), axis=0)


def render_sound(scene, rng: Generator) -> np.ndarray:
    """The mono sound track, (64000,) float32 in [-1, 1] at 16 kHz: faint noise, and a burst of
    0.8 s in the middle of each sounding beat."""
    n = int(BEAT_SECONDS * SAMPLE_RATE)
    seconds = np.arange(n) / SAMPLE_RATE  # (n,)
    envelope = np.clip(np.minimum(seconds - 0.1, 0.9 - seconds) / 0.02, 0, 1)  # (n,)
    sound = 0.002 * rng.standard_normal(n * BEATS)  # (n * BEATS,)
    for tone in scene.tones:
        burst = 0.35 * envelope * np.sin(2 * np.pi * PITCHES[tone.pitch] * seconds)  # (n,)
        for beat, bit in enumerate(tone.beats):
            if bit == "1":
                sound[beat * n : (beat + 1) * n] += burst
    return sound.astype(np.float32)


def write_mp4(path: Path, frames: np.ndarray, fps: int, sound: np.ndarray, rate: int) -> None:
    """frames (T, H, W, 3) uint8 at `fps`; sound (n,) float32 in [-1, 1], mono, at `rate` Hz.

    Written under a name of this process's own first, so that the file is whole or absent.
    subtle: on a busy machine about one file in a hundred differs from the same one of another run,
    by one of 255 levels in some pixels. It is x264's macroblock tree ("mbtree=0" would end it, but
    make other files than those of toy.VERSION 3).
    """
    partial = path.with_suffix(f".{os.getpid()}.part")
    with av.open(str(partial), "w", format="mp4") as box:
        options = {"crf": "18", "preset": "veryfast"}
        video = box.add_stream("libx264", rate=fps, options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        audio = box.add_stream("aac", rate=rate, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 48_000

        for frame in frames:
            box.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        box.mux(video.encode())  # what the encoder still holds

        # the whole sound is one frame to the encoder
        sound_frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        sound_frame.sample_rate = rate
        box.mux(audio.encode(sound_frame))
        box.mux(audio.encode())
    partial.rename(path)
