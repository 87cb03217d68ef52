"""media/loader.py: the media of a batch of records, decoded ahead of time and kept in memory."""

import os
from concurrent.futures import Future, ThreadPoolExecutor

from formats.sample import Sample
from media.cache import MediaCache
from media.decode import Media, MediaSettings
from media.errors import MediaError, record_name
from media.features import with_mel
from media.workers import MEDIA_TIMEOUT, Decoders, try_load_media

MEMORY_BYTES = 4 * 2**30  # of decoded media that are kept in memory

TRIM_EVERY = 64  # records; how often the cache on disk is brought down to its size


class MediaLoader:
    """Decodes the media of samples, each clip once while it stays in memory (oldest out first).

    settings: how to decode. n_mels: mel bins of the sounds; None: sounds are dropped. cache:
    decoded media on disk. workers: how many processes decode what `prefetch` announces while the
    model works, each record's media within MEDIA_TIMEOUT seconds. If workers is 0, threads of this
    process decode when media are asked for; they have no deadline, and one bad file may hang them,
    so this is for tests and tools.
    """

    def __init__(
        self,
        settings: MediaSettings,
        n_mels: int | None,
        cache: MediaCache | None = None,
        workers: int = 0,
    ):
        self.settings = settings
        self.n_mels = n_mels
        self.cache = cache
        self.decoders = Decoders(workers, MEDIA_TIMEOUT) if workers else None
        self.threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # PyAV releases the GIL

        # All by Sample.media_key: a key is in one of these at most.
        self.pending: dict[str, Future] = {}
        self.memory: dict[str, list[Media]] = {}  # oldest first
        self.failed: dict[str, MediaError] = {}  # kept, so that a deadline is waited for only once
        self.free_bytes = MEMORY_BYTES
        self.decoded_since_trim = 0

    def prefetch(self, samples: list[Sample]) -> None:
        """Have the processes decode the media of samples that will be asked for soon."""
        if self.decoders is None:
            return
        for sample in samples:
            key = sample.media_key
            if key not in self.memory and key not in self.pending and key not in self.failed:
                self.pending[key] = self.decoders.submit(
                    sample, self.settings, self.cache, self.n_mels
                )

    def load(self, samples: list[Sample]) -> list[list[Media] | MediaError]:
        """The media of each sample in its order, or the error that says why there are none."""
        self.prefetch(samples)
        decoded = self._decode(samples)
        for key, media in decoded.items():
            if isinstance(media, MediaError):
                self.failed[key] = media

        # collected before anything is forgotten: a batch may be larger than the memory
        loaded: list[list[Media] | MediaError] = []
        for sample in samples:
            key = sample.media_key
            if key in self.failed:
                # The error may be that of another record with the same file. The first argument is
                # the record's name: here it must be this one's.
                _, *rest = self.failed[key].args
                loaded.append(MediaError(record_name(sample), *rest))
            else:
                loaded.append(decoded[key] if key in decoded else self.memory[key])

        for key, media in decoded.items():
            if key not in self.failed:
                self._remember(key, media)
        self._trim_cache(len(decoded))
        return loaded

    def _decode(self, samples: list[Sample]) -> dict[str, list[Media] | MediaError]:
        """By media_key, what is neither in memory nor known to be bad."""
        missing = {}
        for sample in samples:
            key = sample.media_key
            if key not in self.memory and key not in self.failed:
                missing[key] = sample
        if self.decoders:
            return {key: self.pending.pop(key).result() for key in missing}

        def decode(sample: Sample) -> list[Media] | MediaError:
            """What a thread does for one record."""
            return try_load_media(sample, self.settings, self.cache)

        # mel features are made here and not in the threads: each of them would start torch's own
        # team of threads
        decoded = {}
        for key, media in zip(missing, self.threads.map(decode, missing.values()), strict=True):
            failed = isinstance(media, MediaError)
            decoded[key] = media if failed else with_mel(media, self.n_mels)
        return decoded

    def _remember(self, key: str, media: list[Media]) -> None:
        """Keep media in memory, in place of the oldest ones."""
        self.free_bytes -= sum(medium.nbytes for medium in media)
        while self.free_bytes < 0 and self.memory:
            oldest = self.memory.pop(next(iter(self.memory)))
            self.free_bytes += sum(medium.nbytes for medium in oldest)
        self.memory[key] = media

    def _trim_cache(self, decoded: int) -> None:
        """Bring the cache on disk down to its size after every TRIM_EVERY decoded records."""
        self.decoded_since_trim += decoded
        if self.cache and self.decoded_since_trim >= TRIM_EVERY:
            self.cache.trim()
            self.decoded_since_trim = 0

    def close(self) -> None:
        """End the processes."""
        if self.decoders:
            self.decoders.close()
