"""media/decode.py: one medium of a record -> frames and sound.

    video   frames, sampled uniformly and resized, and the sound of its own track or of the
            record's `soundtrack`
    image   one frame
    audio   sound

What is decoded depends on the file, on the record (`span`, `soundtrack`, `frame_rate`) and on the
MediaSettings, and on nothing else: the same three always give the same bits, so that they can be
cached.
"""

import os
from dataclasses import dataclass

import numpy as np

from formats.sample import DataError, Sample, file_of
from media.errors import MediaError, record_name
from media.frames import AspectRatioError, Resize, SampledFrames, read_frames, read_moment
from media.pictures import is_webp, read_picture
from media.prompt_format import MIN_PIXELS, PATCH, SAMPLE_RATE, TEMPORAL_PATCH
from media.sound import read_sound

# Part of the key of the cache. Raise it with every change after which a file gives other frames,
# other times or another sound than before: else runs are served what the old code made of it.
READER_VERSION = 7

MIN_SOUND = SAMPLE_RATE // 10  # shorter sound is padded with silence: the tower needs a few frames


@dataclass(frozen=True)
class MediaSettings:
    """How media are decoded. Every field is part of the key of the cache (`MediaCache.path`)."""

    fps: float  # frames per second, at most; math.inf: as many as max_frames allows
    max_frames: int  # of one video
    max_pixels: int  # of one frame
    min_pixels: int = MIN_PIXELS  # of one frame
    use_audio: bool = True  # the sound tracks of videos; sounds of their own are always decoded
    patch: int = PATCH  # pixels; the sides of frames are multiples of 2 patches
    max_sound: float = 0.0  # seconds of each sound that are kept; 0: all
    decoder: str = "pyav"  # of frames: "pyav", or "decord" for comparison


@dataclass
class Media:
    """One decoded medium."""

    kind: str  # video, image or audio
    frames: np.ndarray | None = None  # (T, H, W, 3) uint8, resized
    sound: np.ndarray | None = None  # (n,) float32 at 16 kHz
    seconds_per_group: float = 1.0  # true time between two temporal patches, of 2 frames each
    mel: np.ndarray | None = None  # (M, L) float32; takes the place of the sound (`with_mel`)
    times: np.ndarray | None = None  # (T,) seconds, of each frame; None: evenly spread
    cut: bool = False  # the sound goes on after what is here (`max_sound`)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, once `with_mel` has replaced the sound."""
        return sum(array.nbytes for array in (self.frames, self.mel) if array is not None)


def load_medium(kind: str, path: str, sample: Sample, settings: MediaSettings) -> Media:
    """Decode one medium of a sample. A video without a sound track has no sound.

    kind, path: one pair of `sample.media`. Raises MediaError (record, field, file) when a file is
    missing or unreadable.
    """
    where = record_name(sample)
    check_files(kind, path, sample)
    if kind == "audio":
        media = Media("audio")
        add_sound(media, *read_sound(path, False, where, None, settings.max_sound))
        return media

    # frames, each resized as soon as it is decoded; a picture has one, which fills both places of
    # its temporal patch, and no times
    resize = Resize(settings.min_pixels, settings.max_pixels, settings.patch)
    try:
        sampled = sample_frames(kind, path, sample, settings, resize)
    except AspectRatioError as error:
        raise MediaError(
            where,
            f"field '{kind}': {path}: {error}; replace the file or remove the record",
            path,
        ) from None
    seconds_per_group = sampled.seconds_per_frame * TEMPORAL_PATCH
    media = Media(kind, sampled.pixels, None, seconds_per_group, times=sampled.times)

    # sound of a video: a file of its own, or the video's track
    if kind == "video" and settings.use_audio and (sample.soundtrack or has_track(path, sample)):
        file = sample.soundtrack or path
        is_track = file == path
        field = "video" if is_track else "soundtrack"
        sound = read_sound(file, is_track, where, sample.span, settings.max_sound, field)
        add_sound(media, *sound)
    return media


def has_track(path: str, sample: Sample) -> bool:
    """May this video have a sound track? A folder of pictures has none, nor has a WebP, which the
    part of FFmpeg that looks for tracks does not know."""
    return not sample.frame_rate and not is_webp(path)


def sample_frames(
    kind: str, path: str, sample: Sample, settings: MediaSettings, resize: Resize
) -> SampledFrames:
    """The resized frames of a video, or the one of a picture."""
    where = record_name(sample)
    if kind == "video":
        return read_frames(
            path,
            settings.fps,
            settings.max_frames,
            where,
            sample.span,
            sample.frame_rate,
            resize,
            settings.decoder,
        )
    if path == file_of(path, "image"):
        picture = read_picture(path, where)
    else:
        picture = read_moment(path, where, settings.decoder)
    return SampledFrames(resize(picture)[None], 1.0 / TEMPORAL_PATCH, None)


def check_files(kind: str, path: str, sample: Sample) -> None:
    """Raises MediaError unless the files of a medium are there, and are files.

    Nothing else may be opened: a named pipe waits for ever, a device has no end.
    """
    # field of the record -> path
    paths = {kind: path}
    if kind == "video" and sample.soundtrack:
        paths["soundtrack"] = sample.soundtrack

    # a video with a frame rate is a folder of numbered pictures
    for field, file in paths.items():
        if field == "video" and sample.frame_rate:
            expected = "folder of frames"
            exists = os.path.isdir(file)
        else:
            expected = "file"
            exists = os.path.isfile(file_of(file, field))
        if not exists:
            raise MediaError(
                record_name(sample),
                f"field '{field}': {file} does not exist or is not a {expected}; "
                "paths are relative to the data file, or to --media_root",
                file,
            )


def add_sound(media: Media, sound: np.ndarray | None, cut: bool) -> None:
    """Put a sound (n,) into media. They have none where it is None, or has no sample."""
    if sound is None or len(sound) == 0:
        return
    media.cut = cut
    media.sound = np.pad(sound, (0, max(0, MIN_SOUND - len(sound))))


def check_media(samples: list[Sample], source: str, advice: str, look: int = 256) -> None:
    """Raises DataError when of about `look` media files from all over the data none exists.

    Then it is not single files that are wrong, but the folder. For the message, source: the data
    set, and advice: what to do about it.
    """
    stride = max(1, len(samples) // look)
    paths: list[str] = []
    for sample in samples[::stride]:
        paths += [file_of(path, kind) for kind, path in sample.media]
    if paths and not any(os.path.exists(path) for path in paths):
        raise DataError(
            f"{source}: of {len(paths)} of its media files that were looked for none exists, "
            f"e.g. {paths[0]}; {advice}"
        )
