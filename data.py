"""data.py: records -> media -> model inputs. One path for the toy world and for real files.

    python data.py toy_world/v3-seed0/stage2_train_8x2.jsonl      # print the first prompts, their token counts and their timing

A record is one JSON object per line (fields: class Sample). Its media become
    video   frames by decord, sampled uniformly at `fps` (at most `max_frames`), resized to at most `max_pixels` (Qwen's smart resize)
    sound   the video's own track by decord, or `audio`, a sidecar .wav / .flac by soundfile; resampled to 16 kHz mono
    image   a still picture by Pillow
and then 14 x 14 x 2 patches, log-mel features, and token ids in which sound and picture are interleaved in chunks of two
seconds, each token with its 3-axis TMRoPE position. All of it is computed here, without torchvision and torchaudio, and tested
equal to transformers' own processors. One thing differs on purpose: time. transformers and the trainers built on it assume 2 frames
per second whatever the sampling was, so a long clip's picture slides away from its sound; here every frame group carries
its TRUE seconds (`Media.seconds_per_group`).

Dimensions: T frames, N patches, M mel bins, L mel frames (10 ms each), P prompt tokens.
"""
import argparse
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import threading
import warnings
import zipfile
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from rewards import canonical_type

SAMPLE_RATE = 16_000
MIN_SOUND = SAMPLE_RATE // 10                          # shorter sound is padded with silence: the tower needs a few frames
N_FFT, HOP = 400, 160                                  # Whisper's STFT: 25 ms windows every 10 ms
MEAN = (0.48145466, 0.4578275, 0.40821073)             # CLIP's pixel statistics, used by every Qwen vision tower
STD = (0.26862954, 0.26130258, 0.27577711)
PATCH, TEMPORAL_PATCH, MERGE = 14, 2, 2
MIN_PIXELS = (PATCH * MERGE) ** 2                      # smallest frame: one token
INSTRUCTION = "Think inside <think> </think>, then answer inside <answer> </answer>."
TYPE_INSTRUCTION = {"multiple choice": "Answer with the letter.", "multi-label": "Answer with the letters, joined by commas.",
                    "numeric": "Answer with a number.", "regression": "Answer with a number.", "counting": "Answer with a number.",
                    "ocr": "Answer with the text as it is written.", "free-form": "Answer briefly.", "yes/no": "Answer yes or no.",
                    "temporal": "Answer with time spans in seconds, [start, end], joined by ;.", "code": "Answer with the code.",
                    "localisation": "Answer with place: shape, joined by |."}


class DataError(ValueError):
    """Bad input data. The message names the file, the record and the field, and says what to do."""


# ---------------------------------------------------------------------------------------------- records
@dataclass
class Sample:
    """One dataset item; the JSONL schema of this project. Paths are relative to the JSONL's folder (or `media_root`).

    `id` names the question AND its media: replay statistics are kept per id. `trace` is the target of stage 0, `hint` a strategy shown
    when a prompt is stuck (stage 0 shows it whenever present), `scene` the toy's truth (read by the oracle judge only).
    """
    id: str
    question: str
    problem_type: str
    answer: str
    video: str | None = None
    audio: str | None = None
    image: str | None = None
    options: list[str] = field(default_factory=list)
    hint: str = ""
    audio_caption: str = ""
    stage: int | None = None
    kind: str = ""
    trace: str = ""
    plan: str = ""
    scene: dict | None = None
    where: str = ""  # "file.jsonl:12", filled in by load_samples for error messages

    @property
    def media_key(self) -> str:
        """What tells two sets of media apart (the clip, not the question): decoded media and features are shared by it."""
        return f"{self.video}|{self.image}|{self.audio}"


REQUIRED = ("id", "question", "problem_type", "answer")


def load_samples(path: str | Path, media_root: str | Path | None = None, stage: int | None = None) -> list[Sample]:
    """Read a JSONL of records into Samples with absolute media paths; keep those of `stage` (records without a stage fit all).

    Raises DataError for a missing file, broken JSON, a missing or unknown field, an unknown problem type or a doubled id.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such data file; pass --data FILE.jsonl")
    root = Path(media_root) if media_root else path.parent
    known, samples, seen = {f.name for f in fields(Sample)}, [], {}
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{n}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not a JSON object on one line ({error}); mend or remove the line") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}")
        missing = [name for name in REQUIRED if record.get(name) in (None, "")]
        if missing:
            raise DataError(f"{where}: field '{missing[0]}' is missing or empty; every record needs {', '.join(REQUIRED)}")
        if unknown := sorted(set(record) - known):
            raise DataError(f"{where}: unknown field '{unknown[0]}'; known fields: {', '.join(sorted(known - {'where'}))}")
        sample = Sample(**record | {"id": str(record["id"]), "answer": str(record["answer"]), "where": where})
        try:
            sample.problem_type = canonical_type(sample.problem_type)
        except ValueError as error:
            raise DataError(f"{where}: field 'problem_type' of record '{sample.id}': {error}") from None
        if sample.id in seen:
            raise DataError(f"{where}: id '{sample.id}' was used at {seen[sample.id]}; ids must name one question about one clip")
        seen[sample.id] = where
        if stage is not None and sample.stage not in (None, stage):
            continue
        for name in ("video", "audio", "image"):
            if value := getattr(sample, name):
                setattr(sample, name, str(root / value))
        samples.append(sample)
    if not samples:
        raise DataError(f"{path}: no record" + (f" of stage {stage}" if stage is not None else ""))
    return samples


def save_samples(path: Path, samples: list[Sample]) -> None:
    """Write Samples as JSONL, leaving out `where`; written to a temporary name first."""
    lines = [json.dumps({k: v for k, v in asdict(s).items() if k != "where"}) for s in samples]
    partial = path.with_suffix(".part")
    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    partial.rename(path)


# ---------------------------------------------------------------------------------------------- decoding
@dataclass
class Media:
    """Decoded media of one sample. frames: (T, H, W, 3) uint8, resized; sound: (n,) float32 at 16 kHz; either may be None.

    seconds_per_group: true time between two temporal patches (2 frames), in seconds. is_image: the frames are one still picture.
    """
    frames: np.ndarray | None = None
    sound: np.ndarray | None = None
    seconds_per_group: float = 1.0
    is_image: bool = False
    mel: np.ndarray | None = None  # (M, L) float32, made of the sound by with_mel, which then drops the sound

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (self.frames, self.mel) if a is not None)


def smart_resize(height: int, width: int, min_pixels: int, max_pixels: int, factor: int = PATCH * MERGE) -> tuple[int, int]:
    """Qwen2-VL's resize rule: sides divisible by `factor`, area in [min_pixels, max_pixels], aspect kept as nearly as possible.

    >>> smart_resize(56, 168, 784, 2352)
    (28, 84)
    """
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"aspect ratio of {height} x {width} pixels is above 200")
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        h, w = (max(factor, math.floor(side / beta / factor) * factor) for side in (height, width))
    elif h * w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        h, w = (math.ceil(side * beta / factor) * factor for side in (height, width))
    return h, w


def resize_frames(frames: np.ndarray, min_pixels: int, max_pixels: int) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, h, w, 3) uint8 by bicubic resampling to the smart-resized size."""
    h, w = smart_resize(frames.shape[1], frames.shape[2], min_pixels, max_pixels)
    if (h, w) == frames.shape[1:3]:
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize((w, h), Image.Resampling.BICUBIC)) for f in frames])


def frame_indices(total: int, video_fps: float, fps: float, max_frames: int) -> tuple[np.ndarray, float]:
    """Which frames to take, and the seconds from one to the next.

    `fps` per second, at most `max_frames`, an even number (a temporal patch holds 2), spread evenly from the first frame on as
    transformers' Qwen2VLVideoProcessor does. A clip too short for two frames repeats its first.

    >>> frame_indices(32, 8.0, 2.0, 16)      # 4 s at 8 frames per second, sampled twice a second
    (array([ 0,  4,  8, 12, 16, 20, 24, 28]), 0.5)
    """
    n = min(total / video_fps * fps, max_frames, total)
    n = int(n // TEMPORAL_PATCH) * TEMPORAL_PATCH
    if n < TEMPORAL_PATCH:
        return np.zeros(TEMPORAL_PATCH, dtype=int), 1.0 / fps
    return np.arange(0, total, total / n)[:n].astype(int), total / n / video_fps


def read_frames(path: str, fps: float, max_frames: int, where: str) -> tuple[np.ndarray, float]:
    """Sampled frames (T, H, W, 3) uint8 of a video by decord, and the seconds from one to the next."""
    import decord  # here, not at the top: only video needs it, and it has no wheel for some systems
    try:
        reader = decord.VideoReader(path, num_threads=1)
        index, step = frame_indices(len(reader), float(reader.get_avg_fps()), fps, max_frames)
        return reader.get_batch(index.tolist()).asnumpy(), step
    except (decord.DECORDError, RuntimeError, ZeroDivisionError, IndexError) as error:
        raise DataError(f"{where}: field 'video': cannot read {path} as a video ({first_line(error)}); "
                        "replace the file or remove the record") from None


def read_sound(path: str, is_video: bool, where: str) -> np.ndarray:
    """Mono sound at 16 kHz, (n,) float32: a video's own track by decord, a sound file by soundfile + soxr."""
    unreadable: tuple[type[Exception], ...] = (RuntimeError, OSError)                # soundfile's errors are RuntimeErrors
    if is_video:
        import decord
        unreadable += (decord.DECORDError,)
    try:
        if is_video:
            # subtle: reader[:] indexes sample by sample, 20 times slower than the array it holds (decord 0.6.0, its last release)
            sound = decord.AudioReader(path, sample_rate=SAMPLE_RATE, mono=True)._array[0]
        else:
            import soundfile
            import soxr
            sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
            sound = sound.mean(axis=1)
            if rate != SAMPLE_RATE:
                sound = soxr.resample(sound, rate, SAMPLE_RATE)
    except unreadable as error:
        what = "has no sound track that can be read" if is_video else "cannot be read as sound"
        mend = "pass --use_audio false, add an 'audio' file to the record, or remove it" if is_video else "replace the file or remove the record"
        raise DataError(f"{where}: field '{'video' if is_video else 'audio'}': {path} {what} ({first_line(error)}); {mend}") from None
    if sound.size == 0:
        raise DataError(f"{where}: {path} holds no sound samples; pass --use_audio false or remove the record")
    return np.pad(np.asarray(sound, dtype=np.float32), (0, max(0, MIN_SOUND - len(sound))))


def first_line(error: BaseException) -> str:
    """The first informative line of an exception's message, without decord's C++ stack."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].split("] ")[-1][:160]


def missing_files(sample: Sample) -> list[str]:
    """The names of the media fields that name no file."""
    return [name for name in ("video", "audio", "image") if (path := getattr(sample, name)) and not Path(path).is_file()]


def load_media(sample: Sample, fps: float, max_frames: int, min_pixels: int, max_pixels: int, use_audio: bool = True) -> Media:
    """Decode the media a sample names. Raises DataError (file, record, field) when one is missing or unreadable."""
    where = f"{sample.where or 'record'} ('{sample.id}')"
    if missing := missing_files(sample):
        raise DataError(f"{where}: field '{missing[0]}': {getattr(sample, missing[0])} does not exist or is not a file; paths are relative to the JSONL, "
                        "or to --media_root")
    media = Media()
    if sample.video:
        frames, step = read_frames(sample.video, fps, max_frames, where)
        media = Media(resize_frames(frames, min_pixels, max_pixels), None, step * TEMPORAL_PATCH)
    elif sample.image:
        try:
            with Image.open(sample.image) as picture:
                frames = np.asarray(picture.convert("RGB"))[None]
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{where}: field 'image': cannot read {sample.image} as a picture ({first_line(error)}); replace the file") from None
        media = Media(resize_frames(frames, min_pixels, max_pixels), is_image=True)
    if use_audio and (sample.audio or sample.video):
        media.sound = read_sound(sample.audio or sample.video, not sample.audio, where)
    return media


# ---------------------------------------------------------------------------------------------- features
def patchify(frames: np.ndarray) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """(T, H, W, 3) uint8 -> patches (N, 3 * 2 * 14 * 14) float32 in Qwen2-VL's order and the grid (t, h, w) in patches.

    Neighbouring 2 x 2 patches stand together (the merger joins them). An odd T repeats the last frame, a still picture itself.
    """
    if len(frames) % TEMPORAL_PATCH:
        frames = np.concatenate([frames, frames[-1:]])
    x = (frames.astype(np.float32) / 255.0 - np.float32(MEAN)) / np.float32(STD)     # (T, H, W, 3)
    t, h, w = len(x) // TEMPORAL_PATCH, x.shape[1] // PATCH, x.shape[2] // PATCH
    x = x.reshape(t, TEMPORAL_PATCH, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH, 3)
    x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)           # (t, h/2, w/2, 2, 2, 3, temporal, 14, 14)
    return torch.from_numpy(np.ascontiguousarray(x.reshape(t * h * w, -1))), (t, h, w)


_MEL_FILTERS: dict[int, torch.Tensor] = {}


def log_mel(sound: np.ndarray, n_mels: int) -> torch.Tensor:
    """Whisper's log-mel features, (n_mels, L) float32 with L = ceil(n / 160): the valid part of what WhisperFeatureExtractor gives.

    The extractor pads with silence before the STFT, so the last frames see zeros, never a reflection; so do ours.
    """
    if n_mels not in _MEL_FILTERS:
        from transformers.audio_utils import mel_filter_bank
        filters = mel_filter_bank(1 + N_FFT // 2, n_mels, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
        _MEL_FILTERS[n_mels] = torch.from_numpy(filters).float()
    length = -(-len(sound) // HOP)
    padded = torch.nn.functional.pad(torch.from_numpy(sound), (0, length * HOP - len(sound) + 2 * N_FFT))
    spectrum = torch.stft(padded, N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True).abs() ** 2
    mel = (_MEL_FILTERS[n_mels].T @ spectrum).clamp(min=1e-10).log10()                # (M, L + 6)
    mel = torch.maximum(mel, mel.max() - 8.0)
    return ((mel + 4.0) / 4.0)[:, :length].contiguous()


def audio_tokens(mel_frames: int) -> int:
    """Tokens the audio tower makes of L mel frames (two stride-2 steps, 25 tokens per second): audio_tokens(400) = 100."""
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1


# ---------------------------------------------------------------------------------------------- prompts
@dataclass
class Prompt:
    """What the model reads. ids (P,) int64; positions (3, P) int64: time, height, width; patches (N, 1176) and grid (t, h, w) or None;
    mel (M, L) or None."""
    sample: Sample
    hinted: bool
    ids: torch.Tensor
    positions: torch.Tensor
    patches: torch.Tensor | None = None
    grid: tuple[int, int, int] | None = None
    is_image: bool = False
    mel: torch.Tensor | None = None

    @property
    def next_position(self) -> int:
        """The position of the first completion token (all three axes): one past the largest in the prompt."""
        return int(self.positions.max()) + 1


def question_text(sample: Sample, hinted: bool = False, audio_caption: bool = False) -> str:
    """The text of the user turn, after the media. A hint is added here, and nowhere else."""
    lines = [sample.question, *sample.options]
    if audio_caption and sample.audio_caption:
        lines.append(f"Sound: {sample.audio_caption}")
    if hinted and sample.hint:
        lines.append(f"Hint: {sample.hint}")
    return "\n".join([*lines, f"{INSTRUCTION} {TYPE_INSTRUCTION[sample.problem_type]}"])


def chunks_by_time(times: np.ndarray, per_chunk: int) -> list[np.ndarray]:
    """Split token indices by their time position as transformers and vLLM do: times [0 0 25 50 75], 50 -> [[0 1 2], [3 4]].

    subtle: a token that lies k chunks ahead opens only ONE new chunk, so where frames are further apart than a chunk their tokens are
    spread over the chunks in between. The positions stay true; the order is kept so that prompts equal those of the serving engines.
    """
    chunks, start = [], 0
    for i, time in enumerate(times):
        if time >= (len(chunks) + 1) * per_chunk:
            chunks.append(np.arange(start, i))
            start = i
    return [*chunks, np.arange(start, len(times))]


def vision_positions(grid: tuple[int, int, int], seconds_per_group: float, per_second: int) -> np.ndarray:
    """(3, t * h/2 * w/2) int: time = floor(group * seconds * per_second), then row, then column of each merged patch."""
    t, h, w = grid[0], grid[1] // MERGE, grid[2] // MERGE
    time = np.floor(np.arange(t, dtype=np.float32) * np.float32(seconds_per_group) * per_second).astype(np.int64)
    return np.stack([axis.reshape(-1) for axis in np.meshgrid(time, np.arange(h), np.arange(w), indexing="ij")])


def lay_out(ids: list[int], config, grid, seconds_per_group: float, n_audio: int) -> tuple[np.ndarray, np.ndarray]:
    """Expand the media placeholders of a tokenised prompt and give every token its TMRoPE position (Qwen2.5-Omni, section 2).

    Sound inside a video is interleaved with it: [video 0-2 s][audio 0-2 s][video 2-4 s]... between <|audio_bos|> and <|audio_eos|>.
    Text counts on from the last token before it. Returns ids (P,) and positions (3, P).
    """
    rate, chunk = config.position_id_per_seconds, int(config.position_id_per_seconds * config.seconds_per_chunk)
    out: list[np.ndarray] = []
    pos: list[np.ndarray] = []
    shared: np.ndarray | None = None

    def put(token_ids, positions: np.ndarray) -> None:
        out.append(np.atleast_1d(token_ids))
        pos.append(positions)

    def follow(n: int) -> np.ndarray:
        start = pos[-1].max() + 1 if pos else 0
        return np.tile(np.arange(n) + start, (3, 1))     # (3, n): text and sound advance all three axes together

    for token in ids:
        if token == config.image_token_id:
            xyz = vision_positions(grid, 0.0, rate)
            put(np.full(xyz.shape[1], token), xyz + follow(1)[0])
        elif token == config.audio_token_id:
            put(np.full(n_audio, token), follow(n_audio))
        elif token == config.video_token_id and not n_audio:
            xyz = vision_positions(grid, seconds_per_group, rate)
            put(np.full(xyz.shape[1], token), xyz + follow(1)[0])
        elif token == config.video_token_id:
            start = pos[-1].max()
            put(config.audio_start_token_id, np.full((3, 1), start))     # <|vision_bos|><|audio_bos|> share one position
            xyz, sound = vision_positions(grid, seconds_per_group, rate) + start + 1, np.tile(np.arange(n_audio), (3, 1)) + start + 1
            seen, heard = chunks_by_time(xyz[0] - start - 1, chunk), chunks_by_time(np.arange(n_audio), chunk)
            for j in range(max(len(seen), len(heard))):
                if j < len(seen):
                    put(np.full(len(seen[j]), token), xyz[:, seen[j]])
                if j < len(heard):
                    put(np.full(len(heard[j]), config.audio_token_id), sound[:, heard[j]])
            put(config.audio_end_token_id, follow(1))
            shared = pos[-1]                             # <|audio_eos|><|vision_eos|> share one, too
        else:
            put(token, follow(1) if shared is None else shared)
            shared = None
    return np.concatenate(out), np.concatenate(pos, axis=1)


def build_prompt(sample: Sample, media: Media, tokenizer, config, hinted: bool = False, audio_caption: bool = False) -> Prompt:
    """Media and text of a sample -> Prompt, through the tokenizer's chat template. `config` is the thinker's config."""
    sound_in_video = media.frames is not None and not media.is_image and media.mel is not None
    content = []
    if media.frames is not None:
        content.append({"type": "image" if media.is_image else "video"})
    if media.mel is not None and not sound_in_video:
        content.append({"type": "audio"})
    content.append({"type": "text", "text": question_text(sample, hinted, audio_caption)})
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    patches, grid = patchify(media.frames) if media.frames is not None else (None, None)
    n_audio = audio_tokens(media.mel.shape[1]) if media.mel is not None else 0
    ids, positions = lay_out(tokenizer(text, add_special_tokens=False)["input_ids"], config, grid, media.seconds_per_group, n_audio)
    return Prompt(sample, hinted, torch.from_numpy(ids).long(), torch.from_numpy(positions).long(), patches, grid, media.is_image,
                  None if media.mel is None else torch.as_tensor(media.mel))


class MediaStore:
    """Decoded media on disk, one file each, in `folder`, at most `max_bytes`: what was written first goes first. Frames and sound are kept as
    they were decoded, so that a hit and a miss give the same bits. The key holds path, size and time of change of each file, and the settings.
    """

    def __init__(self, folder: str | Path, max_bytes: int):
        self.folder, self.max_bytes = Path(folder), max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, sample: Sample, settings: dict) -> Path:
        files = [(name, str(Path(value).absolute()), os.stat(value).st_size, os.stat(value).st_mtime_ns)
                 for name in ("video", "audio", "image") if (value := getattr(sample, name))]
        return self.folder / (hashlib.sha256(json.dumps([files, settings], sort_keys=True).encode()).hexdigest()[:32] + ".npz")

    def load(self, path: Path) -> Media | None:
        try:
            with np.load(path, allow_pickle=False) as f:
                return Media(f.get("frames"), f.get("sound"), float(f["seconds_per_group"]), bool(f["is_image"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            warnings.warn(f"{path}: damaged cache file ({first_line(error)}); decoded again", stacklevel=2)
            return None

    def save(self, path: Path, media: Media) -> None:
        partial = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        with partial.open("wb") as file:
            np.savez(file, **{k: v for k in ("frames", "sound", "seconds_per_group", "is_image") if (v := getattr(media, k)) is not None})
        partial.rename(path)

    def trim(self) -> None:
        """Bring the folder down to its size. Other processes may be writing and trimming it, too."""
        files = []
        for f in self.folder.glob("*.npz"):
            with contextlib.suppress(FileNotFoundError):
                files.append((f.stat().st_mtime_ns, f.stat().st_size, f))
        total = sum(size for _, size, _ in files)
        for _, size, f in sorted(files):
            if total <= self.max_bytes:
                break
            f.unlink(missing_ok=True)
            total -= size


def decode(sample: Sample, settings: dict, store: MediaStore | None = None) -> Media:
    """load_media by way of the store, if there is one."""
    if store is None or missing_files(sample):              # load_media says what is missing
        return load_media(sample, **settings)
    path = store.path(sample, settings)
    media = store.load(path)
    if media is None:
        media = load_media(sample, **settings)
        store.save(path, media)
    return media


def with_mel(media: Media, n_mels: int) -> Media:
    """The sound replaced by its mel features, an array (M, L): from a worker process a tensor would travel as an open file."""
    if media.sound is not None:
        media.mel, media.sound = log_mel(media.sound, n_mels).numpy(), None
    return media


def decode_with_mel(sample: Sample, settings: dict, store: MediaStore | None, n_mels: int) -> Media:
    """What a worker process does."""
    return with_mel(decode(sample, settings, store), n_mels)


class PromptMaker:
    """Sample -> Prompt, keeping the decoded media of up to `memory_bytes` in memory (oldest out first), so that a clip is decoded once.

    settings: load_media's keyword arguments. config: the thinker's config. store: decoded media on disk. workers: processes that decode what
    `ahead` announces while the model works; 0: threads decode when `many` asks.
    """

    def __init__(self, tokenizer, config, memory_bytes: int = 2**32, audio_caption: bool = False, store: MediaStore | None = None, workers: int = 0,
                 **settings):
        self.tokenizer, self.config, self.audio_caption = tokenizer, config, audio_caption
        self.settings, self.store, self.n_mels = settings, store, config.audio_config.num_mel_bins
        self.threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))   # the decoders release the GIL
        # spawned, not forked: a fork of a process with threads and a GPU may hang
        self.workers = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) if workers else None
        self.coming: dict[str, Future] = {}
        self.cache: dict[str, Media] = {}
        self.free, self.since_trim = memory_bytes, 0

    def ahead(self, samples: list[Sample]) -> None:
        """Have workers decode the media of samples that will be asked for soon."""
        for s in samples if self.workers else []:
            if s.media_key not in self.cache and s.media_key not in self.coming:
                self.coming[s.media_key] = self.workers.submit(decode_with_mel, s, self.settings, self.store, self.n_mels)

    def many(self, samples: list[Sample], hinted: list[bool] | None = None) -> list[Prompt]:
        """Prompts of a batch; what is not yet decoded is decoded in the workers, or in threads."""
        self.ahead(samples)
        missing = {s.media_key: s for s in samples if s.media_key not in self.cache}
        if self.workers:
            decoded = {key: self._arrived(key, s) for key, s in missing.items()}
        else:       # mel features here and not in the threads: each thread would start torch's own team of threads
            found = self.threads.map(lambda s: decode(s, self.settings, self.store), missing.values())
            decoded = {key: with_mel(media, self.n_mels) for key, media in zip(missing, found, strict=True)}
        prompts = [build_prompt(s, decoded[s.media_key] if s.media_key in decoded else self.cache[s.media_key], self.tokenizer, self.config,
                                h, self.audio_caption) for s, h in zip(samples, hinted or [False] * len(samples), strict=True)]
        for key, media in decoded.items():
            self.free -= media.nbytes
            while self.free < 0 and self.cache:
                self.free += self.cache.pop(next(iter(self.cache))).nbytes
            self.cache[key] = media
        self.since_trim += len(decoded)
        if self.store and self.since_trim >= 64:
            self.store.trim()
            self.since_trim = 0
        return prompts

    def _arrived(self, key: str, sample: Sample) -> Media:
        try:
            return self.coming.pop(key).result()
        except BrokenProcessPool:
            raise DataError(f"{sample.where}: a worker process died while it decoded (out of memory?); pass --workers 0 to decode in this process") from None

    def __call__(self, sample: Sample, hinted: bool = False) -> Prompt:
        return self.many([sample], [hinted])[0]


if __name__ == "__main__":
    from model import DEFAULT_MODEL, load_tokenizer_and_config
    parser = argparse.ArgumentParser(description="Print the first prompts of a data set as the model reads them.")
    parser.add_argument("data")
    parser.add_argument("--model", default=str(DEFAULT_MODEL))
    parser.add_argument("-n", type=int, default=2)
    args = parser.parse_args()
    tok, cfg = load_tokenizer_and_config(args.model)
    make = PromptMaker(tok, cfg, fps=2.0, max_frames=16, min_pixels=MIN_PIXELS, max_pixels=50_176)
    for item in load_samples(args.data)[: args.n]:
        made = make(item)
        print(f"--- {item.id}: {len(made.ids)} tokens, grid {made.grid}, mel {tuple(made.mel.shape) if made.mel is not None else None}, "
              f"last position {made.next_position - 1}, gold {item.answer!r}")
        print(question_text(item))
