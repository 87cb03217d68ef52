"""media/sound.py: a sound file or the sound track of a video -> mono sound at 16 kHz."""

import numpy as np

from media.errors import MediaError, first_line
from media.prompt_format import SAMPLE_RATE

# Hz that a sound file may have. A broken header's 1 Hz would make hours of a second.
LOWEST_RATE = 1_000
HIGHEST_RATE = 1_000_000

LOUDEST = 1e6  # full scale is 1; the squares of more than this leave float32 in the mel features


def read_sound(path: str, is_video: bool, where: str) -> np.ndarray | None:
    """(n,) float32, mono, 16 kHz: the sound track of a video, or a sound file. None for a video
    that has no track.

    where: the record's name, for messages. Raises MediaError for a sound that cannot be read or
    cannot be one.
    """
    import soxr  # here, not at the top: text and pictures need neither this nor the readers below

    subject = f"field '{'video' if is_video else 'audio'}': {path}"
    recording = read_track(path, where, subject) if is_video else read_file(path, where, subject)
    if recording is None:
        return None
    sound, rate = recording

    sound = sound.mean(axis=1)  # (n, channels) -> (n,)
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise MediaError(
            where,
            f"{subject} says that it has {rate} samples per second, which no sound has; "
            "replace the file or remove the record",
            path,
        )
    if rate != SAMPLE_RATE:
        sound = soxr.resample(sound, rate, SAMPLE_RATE)

    # trap: written as "all are below", since a NaN is not above anything either
    if sound.size == 0 or not (np.abs(sound) < LOUDEST).all():
        raise MediaError(
            where,
            f"{subject} holds no sound samples, or some that are no numbers or far beyond full "
            "scale; replace the file or remove the record",
            path,
        )
    return np.asarray(sound, dtype=np.float32)


def read_track(path: str, where: str, subject: str) -> tuple[np.ndarray, int] | None:
    """((n, channels) samples, their rate) of a video's sound track; None when it has none."""
    try:
        return read_by_decord(path)
    except ImportError:  # of decord itself, which is not the file's fault
        raise
    # decord raises almost anything on a broken file
    except Exception as error:
        if "Can't find audio stream" in str(error):
            return None
        raise MediaError(
            where,
            f"{subject} has a sound track that cannot be read ({first_line(error)}); "
            "replace the file or remove the record",
            path,
        ) from None


def read_file(path: str, where: str, subject: str) -> tuple[np.ndarray, int]:
    """((n, channels) samples, their rate) of a sound file: by soundfile, or by decord where
    soundfile does not know the format (.m4a, some .mp3)."""
    import soundfile

    try:
        return soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, ValueError) as error:  # soundfile's errors are RuntimeErrors
        reason = first_line(error)
    try:
        return read_by_decord(path)
    except ImportError:  # of decord itself, which is not the file's fault
        raise
    # decord raises almost anything on a broken file; soundfile's reason is the one that tells
    # something
    except Exception:
        raise MediaError(
            where,
            f"{subject} cannot be read as sound ({reason}); replace the file or remove the record",
            path,
        ) from None


def read_by_decord(path: str) -> tuple[np.ndarray, int]:
    """((n, 1) samples, their rate), resampled by decord."""
    import decord

    reader = decord.AudioReader(path, sample_rate=SAMPLE_RATE, mono=True)
    # trap: reader[:] indexes sample by sample, 20 times slower than the array it holds (decord
    # 0.6.0, its last release)
    return reader._array.T, SAMPLE_RATE
