"""media/prompt_format.py: how a model family reads media, and the constants of pixels and sound."""

from dataclasses import dataclass

SAMPLE_RATE = 16_000  # Hz; what Whisper's features and the audio tower were trained on

# A video becomes patches of 14 x 14 pixels x 2 frames. 2 x 2 neighbouring patches are merged into
# one token.
PATCH = 14  # pixels
TEMPORAL_PATCH = 2  # frames
MERGE = 2  # patches

MIN_PIXELS = (PATCH * MERGE) ** 2  # of the smallest frame, which is one token

# CLIP's pixel statistics (red, green, blue), with which the vision tower of Qwen2.5 was trained
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PromptFormat:
    """How a model family reads media. `engine.families.prompt_format` makes one from a config."""

    # ids of the placeholder tokens, and of the tokens around a sound; None: the model hears nothing
    image: int
    video: int
    audio: int | None = None
    audio_start: int | None = None
    audio_end: int | None = None

    # time: temporal positions per second, and how many of them one chunk of interleaved picture and
    # sound has
    per_second: float = 25
    chunk: int = 50

    # Qwen3-Omni: they are interleaved token by token, and times are not rounded to whole positions
    by_token: bool = False

    # features: mel bins (None: the model hears nothing), mel frames that the audio tower takes at a
    # time (None: all), pixels per patch, pixel statistics
    n_mels: int | None = None
    mel_chunk: int | None = None
    patch: int = PATCH
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    # Qwen3-VL: each frame group is a picture of its own behind its time in words, "<0.5 seconds>"
    timestamps: bool = False

    @property
    def placeholders(self) -> frozenset[int | None]:
        """The tokens that stand for a medium."""
        return frozenset((self.image, self.video, self.audio))
