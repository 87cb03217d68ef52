"""data.py: records -> media -> model inputs. One path for the toy world and for real files.

    python data.py toy_world/v3-seed0/stage2_train_8x2.jsonl      # print the first prompts, their token counts and their timing
    python data.py DATA --check                                   # walk a data set: what is there, what is broken, what would be dropped and why

A record (records.py) names its media. They become
    video   frames by decord, sampled uniformly at `fps` (at most `max_frames`), resized to at most `max_pixels` (Qwen's smart resize)
    sound   the video's own track by decord, or a .wav / .flac file by soundfile; resampled to 16 kHz mono
    image   a still picture by Pillow
and then patches of 14 x 14 x 2 pixels, log-mel features, and token ids in which a video's sound and picture are interleaved in chunks of two
seconds, each token with its 3-axis TMRoPE position. All of it is computed here, without torchvision and torchaudio, and tested
equal to transformers' own processors. One thing differs on purpose: time. transformers and the trainers built on it assume 2 frames
per second whatever the sampling was, so a long clip's picture slides away from its sound; here every frame group carries
its TRUE seconds (`Media.seconds_per_group`). And nothing is cut: Whisper's extractor drops sound after 30 s, Qwen2.5-Omni's after 300 s;
here a sound is as long as it is, and a prompt that gets too long by it is left out and counted (`--max_prompt_tokens`).

Media are found bad by decoding them: processes of their own do that, each record's within `--media_timeout` seconds (Decoders), and what is bad is a
MediaError with the file's path, not the end of a run. Only files are opened, and only inside of the data set's media folder (records.py).

Dimensions: T frames, N patches, M mel bins, L mel frames (10 ms each), P prompt tokens.
"""

import itertools
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from formats.sample import DataError, Sample
from media.cache import MediaCache
from media.decode import Media, MediaError, place
from media.features import audio_tokens, patchify, with_mel
from media.prompt_format import MERGE, TEMPORAL_PATCH, PromptFormat
from media.workers import Decoders, attempt
from problems import problem_type

INSTRUCTION = "Think inside <think> </think>, then answer inside <answer> </answer>."


class TooLong(DataError):
    """A prompt of more tokens than are allowed. The record can be left out, and the run goes on."""


@dataclass
class Prompt:
    """What the model reads. ids (P,) int64; positions (3, P) int64: time, height, width; patches (N, 1176) of all pictures and videos in their order,
    or None; grids: (t, h, w) of each; mels: (M, L) of each sound."""

    sample: Sample
    hinted: bool
    ids: torch.Tensor
    positions: torch.Tensor
    patches: torch.Tensor | None = None
    grids: list[tuple[int, int, int]] = field(default_factory=list)
    mels: list[torch.Tensor] = field(default_factory=list)
    sound: str = "off"  # heard; cut: heard up to `max_sound`; silent: a video that has none; off: none asked for

    @property
    def next_position(self) -> int:
        """The position of the first completion token (all three axes): one past the largest in the prompt."""
        return int(self.positions.max()) + 1


def instructions(sample: Sample, hinted: bool = False, audio_caption: bool = False) -> str:
    """What stands below the question and its options: the sample's own instruction, or the think / answer one. A hint is added here, and nowhere else."""
    if sample.instruction is not None:
        return sample.instruction
    lines = []
    if audio_caption and sample.audio_caption:
        lines.append(f"Sound: {sample.audio_caption}")
    if hinted and sample.hint:
        lines.append(f"Hint: {sample.hint}")
    return "\n".join([*lines, f"{INSTRUCTION} {problem_type(sample.problem_type).instruction}"])


def question_text(sample: Sample, hinted: bool = False, audio_caption: bool = False) -> str:
    """The text of the user turn, media placeholders included where the record has them."""
    return "\n".join(
        [
            sample.question,
            *sample.options,
            *filter(None, [instructions(sample, hinted, audio_caption)]),
        ]
    )


def chunks_by_time(times: np.ndarray, per_chunk: int) -> list[np.ndarray]:
    """Split token indices by their time position as transformers and vLLM do: times [0 0 25 50 75], 50 -> [[0 1 2], [3 4]].

    subtle: a token that lies k chunks ahead opens only ONE new chunk, so where frames are further apart than a chunk their tokens are
    spread over the chunks in between. The positions stay true; the order is kept so that prompts equal those of the serving engines.
    """
    chunks, start = [], 0
    for i, at in enumerate(times):
        if at >= (len(chunks) + 1) * per_chunk:
            chunks.append(np.arange(start, i))
            start = i
    return [*chunks, np.arange(start, len(times))]


def vision_positions(
    grid: tuple[int, int, int], seconds_per_group: float, per_second: int
) -> np.ndarray:
    """(3, t * h/2 * w/2) int: time = floor(group * seconds * per_second), then row, then column of each merged patch."""
    t, h, w = grid[0], grid[1] // MERGE, grid[2] // MERGE
    time = np.floor(
        np.arange(t, dtype=np.float32) * np.float32(seconds_per_group) * per_second
    ).astype(np.int64)
    return np.stack(
        [axis.reshape(-1) for axis in np.meshgrid(time, np.arange(h), np.arange(w), indexing="ij")]
    )


def lay_out(
    ids: list[int], form: PromptFormat, media: list[Media], grids: list[tuple[int, int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Expand the media placeholders of a tokenised prompt and give every token its TMRoPE position (Qwen2.5-Omni, section 2).

    Sound inside a video is interleaved with it: [video 0-2 s][audio 0-2 s][video 2-4 s]... between <|audio_bos|> and <|audio_eos|>.
    Text counts on from the last token before it. media and grids (of the pictures and videos) in the order of the placeholders; with timestamps,
    a placeholder for each frame group. Returns ids (P,) and positions (3, P).
    """
    out: list[np.ndarray] = []
    pos: list[np.ndarray] = []
    shared: np.ndarray | None = None
    left, sizes = iter(media), iter(grids)

    def put(token_ids, positions: np.ndarray) -> None:
        out.append(np.atleast_1d(token_ids))
        pos.append(positions)

    def follow(n: int) -> np.ndarray:
        start = pos[-1].max() + 1 if pos else 0
        return np.tile(
            np.arange(n) + start, (3, 1)
        )  # (3, n): text and sound advance all three axes together

    for at, run in itertools.groupby(
        range(len(ids)), key=lambda i: i if ids[i] in (form.image, form.video, form.audio) else -1
    ):
        if at < 0:  # a run of text
            text = [ids[i] for i in run]
            if shared is not None:
                put(text.pop(0), shared)
                shared = None
            if text:
                put(text, follow(len(text)))
            continue
        token, one = ids[at], next(left)
        n_audio = 0 if one.mel is None else audio_tokens(one.mel.shape[1])
        if token == form.audio:
            put(np.full(n_audio, token), follow(n_audio))
        elif token == form.image or not n_audio:
            xyz = vision_positions(next(sizes), one.seconds_per_group, form.per_second)
            put(np.full(xyz.shape[1], token), xyz + follow(1)[0])
        else:
            start = pos[-1].max()
            put(
                form.audio_start, np.full((3, 1), start)
            )  # <|vision_bos|><|audio_bos|> share one position
            xyz, sound = (
                vision_positions(next(sizes), one.seconds_per_group, form.per_second) + start + 1,
                np.tile(np.arange(n_audio), (3, 1)) + start + 1,
            )
            seen, heard = (
                chunks_by_time(xyz[0] - start - 1, form.chunk),
                chunks_by_time(np.arange(n_audio), form.chunk),
            )
            for j in range(max(len(seen), len(heard))):
                if j < len(seen):
                    put(np.full(len(seen[j]), token), xyz[:, seen[j]])
                if j < len(heard):
                    put(np.full(len(heard[j]), form.audio), sound[:, heard[j]])
            put(form.audio_end, follow(1))
            shared = pos[-1]  # <|audio_eos|><|vision_eos|> share one, too
    return np.concatenate(out), np.concatenate(pos, axis=1)


def patches_of(
    media: list[Media], form: PromptFormat
) -> tuple[torch.Tensor | None, list[tuple[int, int, int]]]:
    """The patches of all pictures and videos, one after the other, and the grid of each."""
    made = [
        patchify(m.frames, form.patch, form.mean, form.std) for m in media if m.frames is not None
    ]
    return torch.cat([p for p, _ in made]) if made else None, [grid for _, grid in made]


def build_prompt(
    sample: Sample,
    media: list[Media],
    tokenizer,
    form: PromptFormat,
    hinted: bool = False,
    audio_caption: bool = False,
    seen: tuple | None = None,
) -> Prompt:
    """Media (in the order of sample.media) and text of a sample -> Prompt, through the tokenizer's chat template. seen: their `patches_of`, if known. Raises
    MediaError where the text holds a media token of its own, which the model would take for a picture or a sound, and for sound that the model cannot hear."""
    if form.n_mels is None and any(m.kind == "audio" for m in media):
        raise MediaError(
            place(sample),
            "field 'audio': this model hears nothing; use a Qwen2.5-Omni, or remove the record",
        )
    content = [
        {"type": "text", "text": text} if kind == "text" else {"type": kind}
        for kind, text in sample.segments()
    ]
    tail = instructions(sample, hinted, audio_caption)
    if tail and content[-1]["type"] == "text":  # one text, so that it is tokenised as a whole
        content[-1]["text"] += "\n" + tail
    elif tail:
        content.append({"type": "text", "text": tail})
    turns = (
        [{"role": "system", "content": [{"type": "text", "text": sample.system}]}]
        if sample.system
        else []
    )
    text = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    patches, sizes = seen or patches_of(media, form)
    spread, grids = media, sizes
    if form.timestamps:
        text, spread, grids = write_timestamps(
            text, tokenizer.convert_ids_to_tokens(form.video), media, iter(grids)
        )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    wanted = [
        {"image": form.image, "video": form.video, "audio": form.audio}[m.kind] for m in spread
    ]
    if [i for i in ids if i in (form.image, form.video, form.audio)] != wanted:
        raise MediaError(
            place(sample),
            f"its text holds a media token of the model's ({tokenizer.convert_ids_to_tokens(form.image)}, ..), or the chat "
            "template does not write one per medium; remove it from the question, or use the tokenizer of the model's own folder",
        )
    ids, positions = lay_out(ids, form, spread, grids)
    return Prompt(
        sample,
        hinted,
        torch.from_numpy(ids).long(),
        torch.from_numpy(positions).long(),
        patches,
        sizes,
        [torch.as_tensor(m.mel) for m in media if m.mel is not None],
    )


def write_timestamps(
    text: str, token: str, media: list[Media], grids
) -> tuple[str, list[Media], list[tuple[int, int, int]]]:
    """Qwen3-VL's form of videos: a placeholder per frame group, with the bounds around it, behind the mean time of the group's two frames in words.
    -> text, and the media and grids (t = 1) that its placeholders now stand for."""
    bounds = re.compile(
        r"<\|[^<>]*\|>" + re.escape(token) + r"<\|[^<>]*\|>"
    )  # <|vision_start|><|video_pad|><|vision_end|>
    pieces, spread, sizes = [text], [], []
    for one in media:
        if one.frames is None:
            spread.append(one)
            continue
        t, h, w = next(grids)
        spread += [one] * t
        sizes += [(1, h, w)] * t
        if one.kind == "video":
            found = bounds.search(pieces[-1])
            if found is None:
                break
            times = (
                np.arange(len(one.frames)) * (one.seconds_per_group / TEMPORAL_PATCH)
                if one.times is None
                else one.times
            )
            times = (
                times[np.minimum(np.arange(t * TEMPORAL_PATCH), len(times) - 1)]
                .reshape(t, TEMPORAL_PATCH)
                .mean(axis=1)
            )  # as patchify fills up
            pieces[-1:] = [
                pieces[-1][: found.start()]
                + "".join(f"<{time:.1f} seconds>{found[0]}" for time in times),
                pieces[-1][found.end() :],
            ]
    return "".join(pieces), spread, sizes


def share_prefixes(
    prompts: list[Prompt], form: PromptFormat
) -> list[tuple[Prompt, list[list[int]]]]:
    """Neighbouring prompts about the same media begin alike (system turn, media): in order, what some share as a Prompt, and the token ids that follow
    in each. A prompt without such a neighbour, or with media behind the first difference, stands alone: nothing follows it."""
    out: list[tuple[Prompt, list[list[int]]]] = []
    for _, members in itertools.groupby(prompts, key=lambda p: p.sample.media_key):
        some = list(members)
        ids = [p.ids.tolist() for p in some]
        k = next(
            (at for at, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1),
            min(map(len, ids)),
        )
        prefix = replace(some[0], ids=some[0].ids[:k], positions=some[0].positions[:, :k])
        only_text = not any(
            {form.image, form.video, form.audio}.intersection(row[k:]) for row in ids
        )
        counts_on = all(
            (p.positions[:, k:] == prefix.next_position + torch.arange(len(row) - k)).all()
            for p, row in zip(some, ids, strict=True)
        )
        if len(some) > 1 and only_text and counts_on:
            out.append((prefix, [row[k:] for row in ids]))
        else:
            out += [(p, [[]]) for p in some]
    return out


class PromptBuilder:
    """Sample -> Prompt, keeping the decoded media of up to `memory_bytes` in memory (oldest out first), so that a clip is decoded once.

    form: the model's way of reading media. settings: load_medium's keyword arguments. store: decoded media on disk. workers: processes that decode
    what `ahead` announces while the model works, each record's within `timeout` seconds; 0: threads of this process decode when they are asked for,
    without a limit, so that one bad file may hang it: for tests and tools. max_prompt_tokens: longer prompts are refused; 0: none is.
    silent: paths of the videos met so far that have no sound track although `use_audio` asks for it; they are asked without sound.
    """

    def __init__(
        self,
        tokenizer,
        form: PromptFormat,
        memory_bytes: int = 2**32,
        audio_caption: bool = False,
        store: MediaCache | None = None,
        workers: int = 0,
        timeout: float = 120.0,
        max_prompt_tokens: int = 0,
        use_audio: bool = True,
        **settings,
    ):
        self.tokenizer, self.form, self.audio_caption, self.max_prompt_tokens = (
            tokenizer,
            form,
            audio_caption,
            max_prompt_tokens,
        )
        self.settings, self.store = (
            settings | {"use_audio": use_audio and form.n_mels is not None, "patch": form.patch},
            store,
        )
        self.threads = ThreadPoolExecutor(
            min(8, os.cpu_count() or 1)
        )  # the decoders release the GIL
        self.workers = Decoders(workers, timeout) if workers else None
        self.coming: dict[str, Future] = {}
        self.cache: dict[str, list[Media]] = {}
        self.bad: dict[
            str, MediaError
        ] = {}  # other records may name the same files: a deadline is waited for once
        self.silent: set[str] = set()
        self.free, self.since_trim = memory_bytes, 0

    def prefetch(self, samples: list[Sample]) -> None:
        """Have workers decode the media of samples that will be asked for soon."""
        for s in samples if self.workers else []:
            if not any(s.media_key in known for known in (self.cache, self.coming, self.bad)):
                self.coming[s.media_key] = self.workers.submit(
                    s, self.settings, self.store, self.form.n_mels
                )

    def build(
        self, samples: list[Sample], hinted: list[bool] | None = None
    ) -> list[Prompt | MediaError | TooLong]:
        """For every sample its prompt, or the error that says why there is none. What is not yet decoded is decoded in the workers, or in threads."""
        self.prefetch(samples)
        missing = {
            s.media_key: s
            for s in samples
            if s.media_key not in self.cache and s.media_key not in self.bad
        }
        if self.workers:
            decoded = {key: self.coming.pop(key).result() for key in missing}
        else:  # mel features here and not in the threads: each thread would start torch's own team of threads
            found = self.threads.map(
                lambda s: attempt(s, self.settings, self.store), missing.values()
            )
            decoded = {
                key: m if isinstance(m, MediaError) else with_mel(m, self.form.n_mels)
                for key, m in zip(missing, found, strict=True)
            }
        self.bad |= {key: media for key, media in decoded.items() if isinstance(media, MediaError)}
        patches: dict[str, tuple] = {}  # questions about one clip share its patches
        prompts = [
            self._prompt(
                s,
                next(
                    known[s.media_key]
                    for known in (decoded, self.bad, self.cache)
                    if s.media_key in known
                ),
                h,
                patches,
            )
            for s, h in zip(samples, hinted or [False] * len(samples), strict=True)
        ]
        for key, media in decoded.items():
            if isinstance(media, MediaError):
                continue
            self.free -= sum(m.nbytes for m in media)
            while self.free < 0 and self.cache:
                self.free += sum(m.nbytes for m in self.cache.pop(next(iter(self.cache))))
            self.cache[key] = media
        self.since_trim += len(decoded)
        if self.store and self.since_trim >= 64:
            self.store.trim()
            self.since_trim = 0
        return prompts

    def _prompt(
        self,
        sample: Sample,
        media: list[Media] | MediaError,
        hinted: bool,
        patches: dict[str, tuple],
    ) -> Prompt | MediaError | TooLong:
        if isinstance(media, MediaError):
            return MediaError(
                place(sample), *media.args[1:]
            )  # other records may name the same file
        if self.settings["use_audio"]:
            self.silent.update(
                path
                for (kind, path), m in zip(sample.media, media, strict=True)
                if kind == "video" and m.mel is None
            )
        try:
            if sample.media_key not in patches:
                patches[sample.media_key] = patches_of(media, self.form)
            prompt = build_prompt(
                sample,
                media,
                self.tokenizer,
                self.form,
                hinted,
                self.audio_caption,
                patches[sample.media_key],
            )
        except MediaError as error:
            return error
        silent = self.settings["use_audio"] and any(
            m.kind == "video" and m.mel is None for m in media
        )
        prompt.sound = (
            "cut"
            if any(m.cut for m in media)
            else "silent"
            if silent
            else "heard"
            if prompt.mels
            else "off"
        )
        if 0 < self.max_prompt_tokens < len(prompt.ids):
            return TooLong(
                f"{place(sample)}: its prompt has {len(prompt.ids):,} tokens, more than --max_prompt_tokens {self.max_prompt_tokens:,}; lower "
                "--max_frames or --max_pixels, raise the limit, or shorten the media"
            )
        return prompt

    def build_or_raise(
        self, samples: list[Sample], hinted: list[bool] | None = None
    ) -> list[Prompt]:
        """Prompts of a batch. Raises the first error."""
        prompts = self.build(samples, hinted)
        for p in prompts:
            if isinstance(p, DataError):
                raise p
        return prompts

    def __call__(self, sample: Sample, hinted: bool = False) -> Prompt:
        return self.build_or_raise([sample], [hinted])[0]


def prompt_builder(
    cfg, policy, audio_caption: bool = False, max_sound: float = 0.0
) -> PromptBuilder:
    """The run's way from a sample to the model's inputs."""
    store = (
        MediaCache(cfg.media_cache, int(cfg.media_cache_gb * 2**30)) if cfg.media_cache else None
    )
    return PromptBuilder(
        policy.tokenizer,
        policy.form,
        store=store,
        workers=cfg.workers,
        timeout=cfg.media_timeout,
        max_prompt_tokens=cfg.max_prompt_tokens,
        fps=cfg.fps,
        max_frames=cfg.max_frames,
        min_pixels=(policy.form.patch * MERGE) ** 2,
        max_pixels=cfg.max_pixels,
        use_audio=cfg.use_audio,
        audio_caption=audio_caption,
        max_sound=max_sound,
    )
