"""media/prompt_format.py: how a model family reads media, and the constants of pixels and sound."""

from dataclasses import dataclass

SAMPLE_RATE = 16_000

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's pixel statistics, used by the towers of Qwen2.5

STD = (0.26862954, 0.26130258, 0.27577711)

PATCH, TEMPORAL_PATCH, MERGE = 14, 2, 2

MIN_PIXELS = (PATCH * MERGE) ** 2  # smallest frame: one token


@dataclass(frozen=True)
class PromptFormat:
    """How a model family reads media; model.py makes one of a config (`prompt_format`). image, video, audio, audio_start, audio_end: token ids.

    per_second: time positions per second. chunk: time positions of picture, then of sound, that are interleaved. n_mels: mel bins, None for a model
    that hears nothing. patch: pixels. timestamps: each frame group is a picture of its own behind its time in words, e.g. "<0.5 seconds>".
    """

    image: int
    video: int
    audio: int | None = None
    audio_start: int | None = None
    audio_end: int | None = None
    per_second: float = 25
    chunk: int = 50
    n_mels: int | None = None
    patch: int = PATCH
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    timestamps: bool = False
