"""data.py: a record -> a prompt, which is what the model reads.

    record (Sample)   a question, its options, and the paths of its media
       |  media/      decode: frames of videos and pictures, sound at 16 kHz, with their true times;
       v              then patches of 14 x 14 pixels x 2 frames, and log-mel features
    media
       |  chat form   the tokenizer's template, with one placeholder token per medium
       v
    token ids         each placeholder becomes as many tokens as the towers make of its medium
       |  TMRoPE      each token gets a temporal, a height and a width position (media/tmrope.py)
       v
    Prompt            ids, positions, patches, mels

All of it is tested equal to transformers' own processors. How this differs from them, on purpose:
 1. Time. transformers, and the trainers built on it, assume 2 frames per second whatever the
    sampling was, so that the picture of a long clip slides away from its sound. Here every frame
    group carries its TRUE seconds (`Media.seconds_per_group`).
 2. Nothing is cut. Whisper's extractor drops sound after 30 s, Qwen2.5-Omni's after 300 s. Here a
    sound is as long as it is, and a prompt that gets too long by it is left out (`TooLong`).

A record that cannot be used never ends a run: `PromptBuilder.build` returns its error in place of
its prompt. `python -m tools.check_data` walks a data set in the same way and says what it holds,
what is broken and what would be left out.

Dimensions: P prompt tokens, N patches, M mel bins, L mel frames (10 ms each), T frames.
"""

import itertools
import re
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from formats.sample import DataError, Sample
from media.cache import MediaCache
from media.decode import Media, MediaSettings
from media.digest import media_digest
from media.errors import MediaError, record_name
from media.features import VisionInput, vision_input
from media.loader import MediaLoader
from media.prompt_format import MERGE, TEMPORAL_PATCH, PromptFormat
from media.tmrope import lay_out
from problems import INSTRUCTION, SYSTEM, problem_type


class TooLong(DataError):
    """A prompt of more tokens than are allowed. The record can be left out, and the run goes on."""


@dataclass
class Prompt:
    """What the model reads.

    The media stand in `patches`, `grids` and `mels` and nowhere else, so that a copy with other
    media is a valid prompt: `dataclasses.replace(prompt, patches=torch.zeros_like(prompt.patches))`
    is the same question about a grey clip (0 is the mean colour).
    """

    sample: Sample
    hinted: bool

    ids: torch.Tensor  # (P,) int64
    positions: torch.Tensor  # (3, P) int64 (Qwen3-Omni: float32): temporal, height and width

    # the patches of all pictures and videos, one after the other; None without any
    patches: torch.Tensor | None = None  # (N, 3 * 2 * 14 * 14)
    grids: list[tuple[int, int, int]] = field(default_factory=list)  # (t, h, w) of each, in patches
    mels: list[torch.Tensor] = field(default_factory=list)  # (M, L) of each sound

    # the chat text that `ids` were made of, one placeholder for each medium: for people to read
    text: str = ""

    # what became of the sound: "heard"; "cut", heard up to max_sound; "silent", a video that has
    # none; "off", none asked for. For the results of an evaluation.
    sound: str = "off"

    @property
    def next_position(self) -> float:
        """Of the first completion token, on all three axes: one past the largest in the prompt."""
        return self.positions.max().item() + 1


# ------------------------------------------------------------------ text
def instructions(sample: Sample, hinted: bool = False, audio_caption: bool = False) -> str:
    """What stands below the question and its options.

    The sample's own instruction, or the one to think and answer in tags. A hint is added here, and
    nowhere else.
    """
    # the caption of the sound, the hint, and how to answer
    lines = []
    if audio_caption and sample.audio_caption:
        lines.append(f"Sound: {sample.audio_caption}")
    if hinted and sample.hint:
        lines.append(f"Hint: {sample.hint}")
    if sample.instruction is None:
        lines.append(f"{INSTRUCTION} {problem_type(sample.problem_type).instruction}")
    elif sample.instruction:
        lines.append(sample.instruction)
    return "\n".join(lines)


def question_text(sample: Sample, hinted: bool = False, audio_caption: bool = False) -> str:
    """The text of the user turn, media placeholders included where the record has them."""
    lines = [sample.question, *sample.options]
    if text := instructions(sample, hinted, audio_caption):
        lines.append(text)
    return "\n".join(lines)


def chat_text(sample: Sample, tokenizer, hinted: bool, audio_caption: bool) -> str:
    """The prompt as the tokenizer's chat template writes it, one placeholder token per medium."""
    content = []
    for kind, text in sample.segments():
        content.append({"type": "text", "text": text} if kind == "text" else {"type": kind})

    # joined to the last text, if there is one, so that both are tokenised as one text
    if below := instructions(sample, hinted, audio_caption):
        if content[-1]["type"] == "text":
            content[-1]["text"] += "\n" + below
        else:
            content.append({"type": "text", "text": below})

    # without a system turn, the template writes its own
    turns = [{"role": "user", "content": content}]
    if text := sample.system or SYSTEM:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": text}]})
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


# ------------------------------------------------------------------ prompts
def build_prompt(
    sample: Sample,
    media: list[Media],
    tokenizer,
    form: PromptFormat,
    hinted: bool = False,
    audio_caption: bool = False,
    vision: VisionInput | None = None,
) -> Prompt:
    """Media (in the order of sample.media) and text of a sample -> Prompt.

    vision: `vision_input(media, form)`, if it is known already. Raises MediaError for sound that
    the model cannot hear, and where the text holds a media token of its own, which the model would
    take for a picture or a sound.
    """
    # a sound of its own is what the question is about; the track of a video may be left out
    if form.n_mels is None and any(medium.kind == "audio" for medium in media):
        raise MediaError(
            record_name(sample),
            "field 'audio': this model hears nothing; use an Omni model, or remove the record",
        )
    if vision is None:  # a batch computes the patches of a clip once for all its questions
        vision = vision_input(media, form)

    # text, and what each of its placeholders stands for: one medium, in Qwen3-VL one frame group
    text = chat_text(sample, tokenizer, hinted, audio_caption)
    placed = media
    placed_grids = vision.grids
    if form.timestamps:
        video_token = tokenizer.convert_ids_to_tokens(form.video)
        text = write_timestamps(text, video_token, media, vision.grids)
        placed, placed_grids = split_frame_groups(media, vision.grids)

    # token ids, in which each placeholder becomes all the tokens of its medium
    text_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    check_media_tokens(text_ids, placed, sample, tokenizer, form)
    ids, positions = lay_out(text_ids, form, placed, placed_grids)  # (P,), (3, P)
    return Prompt(
        sample=sample,
        hinted=hinted,
        ids=torch.from_numpy(ids).long(),  # (P,)
        positions=torch.from_numpy(positions).to(torch.float if form.by_token else torch.long),
        patches=vision.patches,  # (N, 3 * 2 * 14 * 14)
        grids=vision.grids,
        mels=[torch.as_tensor(medium.mel) for medium in media if medium.mel is not None],
        text=text,
    )


def check_media_tokens(
    ids: list[int], media: list[Media], sample: Sample, tokenizer, form: PromptFormat
) -> None:
    """Raises MediaError unless the media tokens among ids are one for each medium, in order."""
    token_of = {"image": form.image, "video": form.video, "audio": form.audio}
    expected = [token_of[medium.kind] for medium in media]
    if [token for token in ids if token in form.placeholders] != expected:
        raise MediaError(
            record_name(sample),
            "its text holds a media token of the model's "
            f"({tokenizer.convert_ids_to_tokens(form.image)}, ..), or the chat template does not "
            "write one per medium; remove it from the question, or use the tokenizer of the "
            "model's own folder",
        )


def split_frame_groups(
    media: list[Media], grids: list[tuple[int, int, int]]
) -> tuple[list[Media], list[tuple[int, int, int]]]:
    """The medium and the grid (t = 1) that each placeholder stands for in Qwen3-VL, where every
    frame group of a video is a picture of its own."""
    placed = []
    placed_grids = []
    next_grids = iter(grids)
    for medium in media:
        if medium.frames is None:
            placed.append(medium)
            continue
        t, h, w = next(next_grids)
        placed += [medium] * t
        placed_grids += [(1, h, w)] * t
    return placed, placed_grids


def write_timestamps(
    text: str, video_token: str, media: list[Media], grids: list[tuple[int, int, int]]
) -> str:
    """Qwen3-VL's form of videos: before each frame group, the mean time of its frames in words.

    "[video]" becomes "<0.2 seconds>[video]<1.2 seconds>[video]..", where [video] stands for
    <|vision_start|><|video_pad|><|vision_end|>. grids: of the pictures and videos.
    """
    times_of_videos = []
    pictured = [medium for medium in media if medium.frames is not None]
    for medium, (t, _, _) in zip(pictured, grids, strict=True):
        if medium.kind == "video":
            times_of_videos.append(group_times(medium, t))
    remaining = iter(times_of_videos)

    def expand(placeholder: re.Match) -> str:
        # a question may hold a media token of its own: it stays, and check_media_tokens refuses it
        times = next(remaining, None)
        if times is None:
            return placeholder[0]
        return "".join(f"<{time:.1f} seconds>{placeholder[0]}" for time in times)

    bound = r"<\|[^<>]*\|>"  # <|vision_start|> or <|vision_end|>
    return re.sub(bound + re.escape(video_token) + bound, expand, text)


def group_times(video: Media, groups: int) -> np.ndarray:
    """(t,) the mean time in seconds of the two frames of each frame group."""
    times = video.times
    if times is None:
        times = np.arange(len(video.frames)) * (video.seconds_per_group / TEMPORAL_PATCH)  # (T,)
    frames = np.arange(groups * TEMPORAL_PATCH)  # (2 t,)
    frames = np.minimum(frames, len(times) - 1)  # an odd number repeats the last, as in patchify
    return times[frames].reshape(groups, TEMPORAL_PATCH).mean(axis=1)  # (t,)


# ------------------------------------------------------------------ shared prefixes
class SharedPrefix(NamedTuple):
    """Prompts that begin with the same tokens: those tokens, and what follows in each."""

    prefix: Prompt
    suffixes: list[list[int]]  # token ids, one list per prompt


def share_prefixes(prompts: list[Prompt], form: PromptFormat) -> list[SharedPrefix]:
    """Prompts with a common prefix, so that one prefill of it serves them all.

    Neighbouring prompts about the same media begin with the same system turn and the same media,
    and only then differ. The result is in the order of the prompts. A prompt without such a
    neighbour, or with media behind the first difference, stands alone: its suffix is empty.
    """
    shared = []
    # by the content of the media: a copy of a prompt with masked media still names the same files
    for _, neighbours in itertools.groupby(prompts, key=media_digest):
        group = list(neighbours)
        n = common_length([tokens_with_positions(prompt) for prompt in group])

        # The prefix must hold all media, since a suffix of the prefill is text.
        if len(group) > 1 and n > 0 and all(only_text_follows(p, n, form) for p in group):
            first = group[0]
            prefix = replace(first, ids=first.ids[:n], positions=first.positions[:, :n])
            shared.append(SharedPrefix(prefix, [prompt.ids[n:].tolist() for prompt in group]))
        else:
            shared += [SharedPrefix(prompt, [[]]) for prompt in group]
    return shared


def tokens_with_positions(prompt: Prompt) -> list[tuple[int, float, float, float]]:
    """(id, temporal, height, width) of each token: equal media may differ in their times."""
    return list(zip(prompt.ids.tolist(), *prompt.positions.tolist(), strict=True))


def common_length(rows: list[list]) -> int:
    """The number of leading items that all rows have in common.

    >>> common_length([[1, 2, 3, 4], [1, 2, 9]])
    2
    """
    n = 0
    # strict=False: ends with the shortest
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        n += 1
    return n


def only_text_follows(prompt: Prompt, n: int, form: PromptFormat) -> bool:
    """Are the tokens behind the first n all text, whose positions count on from there?"""
    if form.placeholders.intersection(prompt.ids[n:].tolist()):
        return False

    # So does `Policy.pack` number the tokens of a suffix. Not ==: Qwen3-Omni's are rounded floats.
    start = prompt.positions[:, :n].max() + 1
    counted = start + torch.arange(len(prompt.ids) - n)  # (P - n,)
    return bool(((prompt.positions[:, n:] - counted).abs() < 0.01).all())


def split_behind_media(prompt: Prompt, form: PromptFormat) -> tuple[Prompt, list[int]]:
    """A prompt cut behind its last medium: (the part with the media, the token ids of the rest).

    Other questions about the same media begin with the same part. Both parts hold a token or more.
    """
    is_media = torch.isin(prompt.ids, torch.tensor(sorted(form.placeholders - {None})))  # (P,)
    last = int(is_media.nonzero().max()) if is_media.any() else 0
    n = last + 1
    # behind a medium may stand a marker that shares its position
    while not only_text_follows(prompt, n, form) and n < len(prompt.ids) - 1:
        n += 1
    prefix = replace(prompt, ids=prompt.ids[:n], positions=prompt.positions[:, :n])
    return prefix, prompt.ids[n:].tolist()


# ------------------------------------------------------------------ the builder of a run
class PromptBuilder:
    """Samples -> prompts of one model. A record that cannot be used becomes its error, and the
    others go on.

    form: how the model reads media. settings: how media are decoded; `patch` follows the model, and
    `use_audio` is off for a model that hears nothing. max_prompt_tokens: longer prompts are
    refused, never cut; 0: none is. audio_caption: show the record's caption of its sound. cache,
    workers: those of MediaLoader.
    """

    def __init__(
        self,
        tokenizer,
        form: PromptFormat,
        settings: MediaSettings,
        max_prompt_tokens: int = 0,
        audio_caption: bool = False,
        cache: MediaCache | None = None,
        workers: int = 0,
    ):
        self.tokenizer = tokenizer
        self.form = form
        self.max_prompt_tokens = max_prompt_tokens
        self.audio_caption = audio_caption
        hears = settings.use_audio and form.n_mels is not None
        self.settings = replace(settings, use_audio=hears, patch=form.patch)
        self.loader = MediaLoader(self.settings, form.n_mels, cache, workers)

        # paths of the videos met so far that have no sound track, and are shown without sound
        self.silent: set[str] = set()

    def prefetch(self, samples: list[Sample]) -> None:
        """Have the workers decode the media of samples that will be asked for soon."""
        self.loader.prefetch(samples)

    def build(
        self, samples: list[Sample], hinted: list[bool] | None = None
    ) -> list[Prompt | MediaError | TooLong]:
        """For every sample its prompt, or the error that says why there is none."""
        hinted = hinted or [False] * len(samples)
        loaded = self.loader.load(samples)

        # by media_key: the patches of a clip are made once for all questions about it
        visions: dict[str, VisionInput] = {}
        results: list[Prompt | MediaError | TooLong] = []
        for sample, media, with_hint in zip(samples, loaded, hinted, strict=True):
            if isinstance(media, MediaError):
                results.append(media)
                continue

            # the same media, and read in the same way (span, soundtrack, ..)
            key = sample.media_key
            if key not in visions:
                visions[key] = vision_input(media, self.form)
            results.append(self._build_one(sample, media, with_hint, visions[key]))
        return results

    def _build_one(
        self, sample: Sample, media: list[Media], hinted: bool, vision: VisionInput
    ) -> Prompt | MediaError | TooLong:
        """The prompt of one sample, with the state of its sound."""
        # the videos that have no sound track
        silent = []
        for (kind, path), medium in zip(sample.media, media, strict=True):
            if self.settings.use_audio and kind == "video" and medium.mel is None:
                silent.append(path)
        self.silent.update(silent)

        try:
            prompt = build_prompt(
                sample, media, self.tokenizer, self.form, hinted, self.audio_caption, vision
            )
        except MediaError as error:
            return error

        # what became of the sound
        if any(medium.cut for medium in media):
            prompt.sound = "cut"
        elif silent:
            prompt.sound = "silent"
        elif prompt.mels:
            prompt.sound = "heard"

        # never cut: half a clip may not hold the answer
        if 0 < self.max_prompt_tokens < len(prompt.ids):
            return TooLong(
                f"{record_name(sample)}: its prompt has {len(prompt.ids):,} tokens, more than "
                f"--max_prompt_tokens {self.max_prompt_tokens:,}; lower --max_frames or "
                "--max_pixels, raise the limit, or shorten the media"
            )
        return prompt

    def build_or_raise(
        self, samples: list[Sample], hinted: list[bool] | None = None
    ) -> list[Prompt]:
        """The prompts of a batch. Raises the first error."""
        results = self.build(samples, hinted)
        for result in results:
            if isinstance(result, DataError):
                raise result
        return results

    def __call__(self, sample: Sample, hinted: bool = False) -> Prompt:
        """The prompt of one sample. Raises its error."""
        return self.build_or_raise([sample], [hinted])[0]


def prompt_builder(
    cfg, policy, audio_caption: bool = False, max_sound: float = 0.0
) -> PromptBuilder:
    """The builder that the flags of a run ask for. cfg: the flags of train.py or eval.py.

    audio_caption: see PromptBuilder. max_sound: seconds of each sound that are kept; 0: all.
    """
    # `use_audio` and `patch` are corrected by the builder, which knows what the model can take
    settings = MediaSettings(
        fps=cfg.fps,
        max_frames=cfg.max_frames,
        max_pixels=cfg.max_pixels,
        min_pixels=(policy.form.patch * MERGE) ** 2,  # one token
        use_audio=cfg.use_audio,
        max_sound=max_sound,
        decoder=cfg.decoder,
    )
    return PromptBuilder(
        policy.tokenizer,
        policy.form,
        settings,
        max_prompt_tokens=cfg.max_prompt_tokens,
        audio_caption=audio_caption,
        cache=MediaCache(cfg.media_cache) if cfg.media_cache else None,
        workers=cfg.workers,
    )
