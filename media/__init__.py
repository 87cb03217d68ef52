"""Media files: decoding them, keeping what was decoded, and what a model reads of them.

errors.py          what is wrong with a file, in one sentence
container.py       opening a video or a sound file, of a fixed list of kinds
pictures.py        a still picture -> pixels
frames.py          a video or a folder of pictures -> sampled, resized frames
sound.py           a sound file or a video's track -> mono sound at 16 kHz
decode.py          one medium of a record -> Media (frames, sound, times)
cache.py           decoded media on disk
workers.py         processes that decode under a deadline
loader.py          all of it together: the media of a batch of records, decoded once
features.py        frames -> patches, sound -> log-mel features
prompt_format.py   how a model family reads media
"""
