"""media/tmrope.py: where every token of a prompt stands in time and space.

TMRoPE (Qwen2.5-Omni, section 2) gives each token three positions, of which the decoder's rotary
embedding is made:

              temporal                height    width
    text      the position before + 1, the same on all three
    sound     the time, 25 a second, the same on all three
    picture   0                       its row   its column
    video     its time, 25 a second   its row   its column

The positions of a medium count from the token before it. Those of a video's picture and of its
sound count from the same token, so that what happens at one time has one temporal position.
(Qwen3-Omni: 13 a second, and the time of a video is not rounded to a whole position.)
"""

import itertools

import numpy as np

from media.decode import Media
from media.features import audio_tokens
from media.prompt_format import MERGE, PromptFormat


def vision_positions(
    grid: tuple[int, int, int], seconds_per_group: float, form: PromptFormat
) -> np.ndarray:
    """(3, V) positions of a picture or video, from 0 on, with V = t * h/2 * w/2 tokens.

    A token is a merged patch, 2 x 2 patches of one frame group. Its temporal position is
    floor(group * seconds_per_group * per_second), of Qwen3-Omni without the floor, its height its
    row and its width its column.
    """
    t = grid[0]
    h = grid[1] // MERGE
    w = grid[2] // MERGE
    # float32, in which transformers computes it: the floor of a product may depend on it
    seconds = np.arange(t, dtype=np.float32) * np.float32(seconds_per_group)  # (t,)
    temporal = seconds * form.per_second  # (t,)
    if not form.by_token:
        temporal = np.floor(temporal).astype(np.int64)  # (t,)
    axes = np.meshgrid(temporal, np.arange(h), np.arange(w), indexing="ij")  # 3 x (t, h, w)
    return np.stack([axis.reshape(-1) for axis in axes])  # (3, V)


def equal_positions(start: float, n: int) -> np.ndarray:
    """(3, n): start, start + 1, .. on every axis, for text and sound, which have a time only."""
    return np.tile(start + np.arange(n), (3, 1))


def chunks_by_time(temporal: np.ndarray, per_chunk: int) -> list[np.ndarray]:
    """Split tokens by their temporal positions into chunks of `per_chunk` positions, as
    transformers and vLLM do. Returns the indices of the tokens of each chunk.

    >>> chunks_by_time(np.array([0, 0, 25, 50, 75]), 50)
    [array([0, 1, 2]), array([3, 4])]

    trap: a token that lies k chunks ahead opens only ONE new chunk. So where frames are further
    apart than a chunk, their tokens are spread over the chunks in between. The positions stay true;
    only the order of the tokens is odd, and it is kept so that prompts equal those of the serving
    engines.
    """
    chunks = []
    start = 0
    for i, position in enumerate(temporal):
        if position >= (len(chunks) + 1) * per_chunk:
            chunks.append(np.arange(start, i))
            start = i
    chunks.append(np.arange(start, len(temporal)))
    return chunks


class TokenLayout:
    """Token ids and their positions, written from left to right in pieces."""

    def __init__(self):
        self.ids: list[np.ndarray] = []  # (n,) of each piece
        self.positions: list[np.ndarray] = []  # (3, n) of each piece

    def add(self, token: int, positions: np.ndarray) -> None:
        """A piece of n equal tokens at positions (3, n)."""
        self.ids.append(np.full(positions.shape[1], token))
        self.positions.append(positions)

    @property
    def last_position(self) -> float:
        """The largest position, on any axis, of the last piece; -1 before the first one.

        trap: of the last piece only, as in transformers. Behind a chunk of sound it does not count
        that a frame before it may have reached a larger height or width position.
        """
        return self.positions[-1].max().item() if self.positions else -1


def lay_out(
    ids: list[int], form: PromptFormat, media: list[Media], grids: list[tuple[int, int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Expand the placeholders of a tokenised prompt and give every token its TMRoPE position.

    media, grids: in the order of the placeholders; a grid for each picture and video.
    Returns ids (P,) and positions (3, P), whole numbers except of Qwen3-Omni.

    A worked example, with 2 temporal positions per second and chunks of 2 positions (1 s). A clip
    of 2 frame groups 1 s apart, of 1 token each, has a sound of 3 tokens. In ids, 8 and 9 stand
    around the clip, 2 is its placeholder, and 7 is text. Picture and sound take turns by chunks:

                    bos  audio_bos | video audio audio | video audio | audio_eos eos  text
        ids          8       4     |   2     3     3   |   2     3   |     5      9     7
        temporal     0       0     |   1     1     2   |   3     3   |     4      4     5
        height       0       0     |   1     1     2   |   1     3   |     4      4     5
        width        0       0     |   1     1     2   |   1     3   |     4      4     5

    >>> form = PromptFormat(
    ...     image=1, video=2, audio=3, audio_start=4, audio_end=5, per_second=2, chunk=2
    ... )
    >>> clip = Media("video", seconds_per_group=1.0, mel=np.zeros((64, 12)))
    >>> ids, (temporal, height, width) = lay_out([8, 2, 9, 7], form, [clip], [(2, 2, 2)])
    >>> print(ids, temporal, height, width, sep="\\n")
    [8 4 2 3 3 2 3 5 9 7]
    [0 0 1 1 2 3 3 4 4 5]
    [0 0 1 1 2 1 3 4 4 5]
    [0 0 1 1 2 1 3 4 4 5]
    """
    layout = TokenLayout()
    tokens = iter(ids)
    next_media = iter(media)
    next_grids = iter(grids)
    for token in tokens:
        # everything counts on from the token before it
        start = layout.last_position + 1

        # text
        if token not in form.placeholders:
            layout.add(token, equal_positions(start, 1))
            continue

        # a sound
        medium = next(next_media)
        n_sound = 0
        if medium.mel is not None:
            n_sound = audio_tokens(medium.mel.shape[1], form.mel_chunk)
        if token == form.audio:
            layout.add(token, equal_positions(start, n_sound))
            continue

        # a picture or a silent video
        grid = next(next_grids)
        picture = vision_positions(grid, medium.seconds_per_group, form)  # (3, V)
        if n_sound == 0:
            layout.add(token, start + picture)
            continue

        # a video with sound; <|vision_eos|>, which closes it, shares the position of <|audio_eos|>
        if form.by_token:  # or, of Qwen3-Omni, stands behind it like text
            add_token_by_token(layout, form, picture, n_sound)
        else:
            add_video_with_sound(layout, form, picture, n_sound)
            layout.add(next(tokens), equal_positions(layout.last_position, 1))
    return np.concatenate(layout.ids), np.concatenate(layout.positions, axis=1)


def add_video_with_sound(
    layout: TokenLayout, form: PromptFormat, picture: np.ndarray, n_sound: int
) -> None:
    """What stands between <|vision_bos|> and <|vision_eos|>: picture and sound, interleaved.

        <|audio_bos|> [video 0-2 s] [audio 0-2 s] [video 2-4 s] [audio 2-4 s] .. <|audio_eos|>

    picture: (3, V) positions from 0 on, of `vision_positions`. n_sound: tokens of the sound.
    """
    # <|vision_bos|> and <|audio_bos|> share one position
    layout.add(form.audio_start, equal_positions(layout.last_position, 1))

    # both count from the next position, so that what happens at one time stands at one time
    start = layout.last_position + 1
    sound = equal_positions(0, n_sound)  # (3, n_sound)
    picture_chunks = chunks_by_time(picture[0], form.chunk)
    sound_chunks = chunks_by_time(sound[0], form.chunk)
    for in_picture, in_sound in itertools.zip_longest(picture_chunks, sound_chunks):
        if in_picture is not None:
            layout.add(form.video, start + picture[:, in_picture])
        if in_sound is not None:
            layout.add(form.audio, start + sound[:, in_sound])
    layout.add(form.audio_end, equal_positions(layout.last_position + 1, 1))


def add_token_by_token(
    layout: TokenLayout, form: PromptFormat, picture: np.ndarray, n_sound: int
) -> None:
    """What stands between <|vision_start|> and <|vision_end|> of Qwen3-Omni: the tokens of picture
    and sound by their time, at one time the picture first.

    Each of the markers around them has a position of its own. Arguments: see add_video_with_sound.
    """
    layout.add(form.audio_start, equal_positions(layout.last_position + 1, 1))
    start = layout.last_position + 1
    n_picture = picture.shape[1]
    both = np.concatenate([picture, equal_positions(0, n_sound)], axis=1)  # (3, V + n_sound)
    order = np.argsort(both[0], kind="stable")  # (V + n_sound,)

    # In runs of one kind: what follows counts on from the last run alone (TokenLayout).
    is_sound = order >= n_picture  # (V + n_sound,)
    run_starts = np.flatnonzero(np.diff(is_sound)) + 1
    for run in np.split(order, run_starts):
        token = form.audio if run[0] >= n_picture else form.video
        layout.add(token, start + both[:, run])
    layout.add(form.audio_end, equal_positions(layout.last_position + 1, 1))
