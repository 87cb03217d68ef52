"""A few items of each benchmark of sound and picture, in the benchmark's own files, with small
media. A function writes one layout under `root` and returns how many items it holds; LAYOUTS names
those that eval.py can be pointed at."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

FPS, SIDE, RATE = 8, 56, 16_000


def write_video(
    path: Path, seconds: float = 1.0, sound: bool = True, pictures: np.ndarray | None = None
) -> Path:
    """An H.264 + AAC mp4 of 8 frames per second. pictures: (T, H, W, 3) uint8; they then decide on
    its length."""
    if pictures is None:
        greys = [20 + 7 * i % 200 for i in range(round(seconds * FPS))]
        pictures = np.stack([np.full((SIDE, SIDE, 3), grey, np.uint8) for grey in greys])
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as box:
        video = box.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        video.height, video.width = pictures.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        audio = box.add_stream("aac", rate=RATE, layout="mono") if sound else None
        for array in pictures:
            box.mux(video.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        box.mux(video.encode())
        if audio:
            wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(len(pictures) * RATE // FPS) / RATE)
            block = av.AudioFrame.from_ndarray(
                wave[None].astype(np.float32), format="fltp", layout="mono"
            )
            block.sample_rate = RATE
            box.mux(audio.encode(block))
            box.mux(audio.encode())
    return path


def write_image(path: Path, grey: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (grey, grey, grey)).save(path, format="PNG")
    return path


def write_wav(path: Path, pitch: float = 440) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, 0.3 * np.sin(2 * np.pi * pitch * np.arange(RATE // 2) / RATE), RATE, format="WAV"
    )
    return path


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = content if path.suffix == ".jsonl" else [content]
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")


def write_parquet(path: Path, rows: list[dict]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


# --------------------------------------------------------------------------- OmniBench
OMNIBENCH = [
    {
        "index": 0,
        "task type": "Action and Activity",
        "audio type": "Speech ",
        "question": "What are they doing?",
        "options": [
            "A man is reading",
            "They sing",
            "A man is  answering some questions",
            "They wait",
        ],
        "answer": "A man is answering some questions",
        "audio_path": "6-0044.wav",
        "image_path": "1_024.png",
        "audio content": "Yes, I did.",
        "image content": "two men",
    },
    {
        "index": 1,
        "task type": "Object Identification and Description",
        "audio type": "sound event",
        "question": "What is  heard?",
        "options": ["two  dogs", "a cat", "two dogs", "a car"],
        "answer": "two dogs",
        "audio_path": "2_009.wav",
        "image_path": "3_011.png",
    },
    {
        "index": 2,
        "task type": "Action and Activity",
        "audio type": "music",
        "question": "Who plays?",
        "options": ["a boy", "a girl", "a girl", "nobody"],
        "answer": "a girl",
        "audio_path": "2_009.wav",
        "image_path": "1_024.png",
    },
    {
        "index": 3,
        "task type": "Count and Quantity",
        "audio type": "music",
        "question": "How many?",
        "options": ["1", "2", "3", "4"],
        "answer": "5",
        "audio_path": "2_009.wav",
        "image_path": "1_024.png",
    },
]


def omnibench(root: Path) -> int:
    """The authors' JSONL and folders. The last item's answer is none of its options."""
    write_json(root / "dataset/batch-5_1142_20240817.jsonl", OMNIBENCH)
    for row in OMNIBENCH:
        write_image(root / "mm_data/image" / row["image_path"])
        write_wav(root / "mm_data/audio" / row["audio_path"])
    return 4


def omnibench_parquet(root: Path) -> int:
    """The hub's parquet files, in two shards, with the media inside."""
    inside = {
        "image content": "",
        "audio content": "",
        "image": {"bytes": write_image(root / "a/x.png").read_bytes(), "path": None},
        "audio": {"bytes": write_wav(root / "a/x.wav").read_bytes(), "path": None},
    }
    rows = [row | inside for row in OMNIBENCH]
    write_parquet(root / "data/train-00000-of-00002.parquet", rows[:2])
    write_parquet(root / "data/train-00001-of-00002.parquet", rows[2:])
    shutil.rmtree(root / "a")
    return 4


# --------------------------------------------------------------------------- Daily-Omni
def dailyomni(root: Path) -> int:
    rest = {"content_parent_category": None, "content_fine_category": "x", "Explaination": None}
    write_json(
        root / "qa.json",
        [
            {
                "Question": "What comes first?",
                "Choice": ["A. A knock", "B. It's a bell", "C. A <b>bang</b>", "D. Speech"],
                "Answer": "C",
                "video_id": "aB-9_x",
                "Type": "Event Sequence",
                "video_category": "Education",
                "video_duration": "30s",
                **rest,
            },
            {
                "Question": "Who {list} speaks?",
                "Choice": ["A.Ann", "B. Bob", "C. I", "D. No one"],
                "Answer": "A",
                "video_id": "aB-9_x",
                "Type": "AV Event Alignment",
                "video_category": "Education",
                "video_duration": "30s",
                **rest,
            },
            {
                "Question": "Why?",
                "Choice": ["A. Rain", "B. Wind", "C. Snow", "D. Sun"],
                "Answer": "D",
                "video_id": "zz1",
                "Type": "Inference",
                "video_category": None,
                "video_duration": "60s",
                **rest,
            },
        ],
    )
    for stem in ("aB-9_x", "zz1"):
        write_video(root / f"Videos/{stem}/{stem}_video.mp4")
        write_wav(root / f"Videos/{stem}/{stem}_audio.wav")
    return 3


# --------------------------------------------------------------------------- AV-Odyssey
def odyssey(
    number: int, question: str, options: list[str], answer: str, kind: str, subfield: str
) -> dict:
    return {
        "question_id": number,
        "question_type_id": number + 1,
        "data_type": kind,
        "subfield": subfield,
        "question": question,
        "options": options,
        "answer": answer,
    }


ODYSSEY = [
    odyssey(
        0,
        "Which of [img1], [img2] fits [audio1]?",
        ["A. [img2]", "B. [img1]", "C. Both", "D. None"],
        "B",
        "image, audio",
        "Timbre",
    ),
    odyssey(
        1,
        "Which sound fits [video1]?",
        ["A. [audio2]", "B. [audio1]", "C. [audio4]", "D. [audio3]"],
        "A",
        "video, audio",
        "Hallucination",
    ),
    odyssey(
        2,
        "Is [audio1] higher than [audio2]?",
        ["A. Yes", "B. No", "C. Equal", "D. Unknown"],
        "D",
        "audio",
        "Tone",
    ),
    odyssey(
        3,
        "Does [img1] fit [img3]?",
        ["A. Yes", "B. No", "C. Maybe", "D. Unknown"],
        "A",
        "image",
        "Space",
    ),
]


def avodyssey(root: Path) -> int:
    """JSON with paths; one file lies where its zip unpacked itself; one sound is not named. The
    last item speaks of a third picture, and has two."""
    lists = [
        {
            "image_path": ["image/a.png", "image/b.png"],
            "audio_path": ["audio/a.wav"],
            "video_path": ["video/v.mp4"],
        },
        {
            "image_path": None,
            "audio_path": [f"audio/{c}.wav" for c in "abcd"],
            "video_path": ["video/v.mp4"],
        },
        {
            "image_path": [],
            "audio_path": ["audio/a.wav", "audio/b.wav", "audio/d.wav"],
            "video_path": [],
        },
        {"image_path": ["image/a.png", "image/b.png"], "audio_path": None, "video_path": None},
    ]
    write_json(
        root / "av_odyssey.json", [row | paths for row, paths in zip(ODYSSEY, lists, strict=True)]
    )
    for name in ("image/a.png", "image/image/b.png"):
        write_image(root / name)
    for c in "abcd":
        write_wav(root / f"audio/{c}.wav")
    write_video(root / "video/v.mp4")
    return 4


def avodyssey_parquet(root: Path) -> int:
    """Two of the hub's parquet files, media inside as bytes; a picture's bytes are in an object. As
    in the JSON, without the last item."""
    pictures = [
        {"bytes": write_image(root / f"{i}.png", 50 * i).read_bytes(), "path": f"{i}.png"}
        for i in (1, 2)
    ]
    sounds = [write_wav(root / f"{i}.wav", 200 * i).read_bytes() for i in range(1, 5)]
    clip = write_video(root / "v.mp4").read_bytes()
    columns = [f"{kind}_{i}" for kind in ("image", "audio") for i in range(1, 5)]
    empty = dict.fromkeys([*columns, "video_1"])
    inside = [
        {"image_1": pictures[0], "image_2": pictures[1], "audio_1": sounds[0]},
        {"video_1": clip} | {f"audio_{i}": s for i, s in enumerate(sounds, 1)},
        {"audio_1": sounds[0], "audio_2": sounds[1]},
    ]
    rows = [row | empty | media for row, media in zip(ODYSSEY[:3], inside, strict=True)]
    write_parquet(root / "av_odyssey_part1.parquet", rows[:2])
    write_parquet(root / "av_odyssey_part2.parquet", rows[2:])
    for path in [*root.glob("*.png"), *root.glob("*.wav"), root / "v.mp4"]:
        path.unlink()
    return 3


# --------------------------------------------------------------------------- WorldSense
TASKS = [
    {
        "task_domain": "Recognition",
        "task_type": "Event Sorting",
        "question": "Which is first?",
        "answer": "B",
        "candidates": ["A. The bell.", "B. The door.", "C. The car."],
    },
    {
        "task_domain": "Reasoning",
        "task_type": "Emotion Change",
        "question": "How does he feel?",
        "answer": "A",
        "candidates": ["A. Because of A, sad.", "B. Glad.", "C. Calm.", "D. Angry."],
    },
]


def worldsense(root: Path) -> int:
    about = {
        "video_duration": "60s",
        "duration": "<1min",
        "domain": "Daily Life",
        "sub_category": "Cooking",
        "audio_class": ["Speech", "Event"],
        "video_caption": "A kitchen.",
    }
    write_json(
        root / "worldsense_qa.json",
        {
            "abc": {"video_id": "abc"} | about | {"task0": TASKS[0], "task1": TASKS[1]},
            "d-e_f": {"video_id": "d-e_f"}
            | about
            | {"domain": "Music", "audio_class": [], "task0": TASKS[1]},
        },
    )
    for stem in ("abc", "d-e_f"):
        write_video(root / f"videos/{stem}.mp4")
    return 3


def worldsense_parquet(root: Path) -> int:
    """The rows of the hub's other form, one per question."""
    write_parquet(
        root / "data/test-00000-of-00001.parquet",
        [
            task
            | {
                "index": i,
                "video": "abc",
                "video_path": "videos/abc.mp4",
                "duration": "<1min",
                "domain": "Daily Life",
                "audio_class": ["Speech", "Event"],
            }
            for i, task in enumerate(TASKS)
        ],
    )
    write_video(root / "videos/abc.mp4")
    return 2


# --------------------------------------------------------------------------- IntentBench
def intentbench(root: Path) -> int:
    """Ids under two names or none, options as a list or its text, gold in `solution` or else
    `answer`, which once says less."""
    shown = {"data_type": "video"}
    faces = ["A.calm", "B.sad, tired", "C.glad", "D.angry", "E.bored", "F.A little shy"]
    write_json(
        root / "qa.json",
        [
            {
                "qid": "q1",
                "problem": "Why does she smile?",
                "problem_type": "multiple choice",
                "options": ["A.A joke", "B.I do", "C.No idea", "D.Yes"],
                "answer": "B",
                "solution": "<answer>B</answer>",
                "video": "s1_trimmed-out.mp4",
                "Type": "why",
                **shown,
            },
            {
                "Question id": 7,
                "problem": "What does he feel?",
                "problem_type": "emer_ov_mc",
                "options": str(faces),
                "answer": "B",
                "solution": "<think>t</think><answer> B,E </answer>",
                "video": "s1_trimmed-out.mp4",
                "Type": "emotion",
                **shown,
            },
            {
                "problem": 'He was asked "Did you go?" Is he lying?',
                "problem_type": "judge",
                "options": [],
                "answer": "Yes",
                "path": "s2.mp4",
                "Type": "deception",
                **shown,
            },
            {
                "problem": "Is she lying?",
                "problem_type": "judge",
                "answer": "No",
                "solution": None,
                "video": "s2.mp4",
                "Type": "deception",
                **shown,
            },
            {
                "problem": "Pick.",
                "problem_type": "emer_ov_mc",
                "options": faces,
                "answer": "A,G",
                "video": "s2.mp4",
                "Type": "emotion",
                **shown,
            },
        ],
    )
    write_video(root / "videos/s1_trimmed-out.mp4")
    write_video(root / "s2.mp4")
    return 5


# --------------------------------------------------------------------------- CG-AV-Counting
def cgav(root: Path) -> int:
    """One question of each category of clues, in three settings; the video brightens with time."""

    def box(t: float, *corners: float) -> dict:
        return {"timestamp": t, "bbox": list(corners)}

    rows = [
        (
            "event",
            "How many knocks?",
            2,
            "A2V",
            [0.125, 1.0],
            [{"start": 0.5, "end": 1}, {"start": "1.25", "end": "1.75"}],
        ),
        (
            "object",
            "How many cups?",
            "3",
            "V",
            [0, 1.5],
            [box(1.5, 0, 0, 10, 10), box(0.5, 20, 20, 30, 40), box(1.5, 50, 50, 60, 60)],
        ),
        (
            "attribute",
            "How many colours of cups?",
            2,
            "AV",
            [0.5, 1.75],
            [[box(0.5, 0, 0, 10, 10), box(1.0, 5, 5, 9, 9)], [box(0.25, 20, 20, 30, 40)]],
        ),
    ]
    write_json(
        root / "cg-av-counting.json",
        [
            {
                "index": i,
                "video": "x1.mp4",
                ("question_en" if category == "event" else "question"): question,
                "answer": answer,
                "type": kind,
                "category": category,
                "query_interval": interval,
                "clue": json.dumps(clue) if category == "object" else clue,
            }
            for i, (category, question, answer, kind, interval, clue) in enumerate(rows)
        ],
    )
    write_video(
        root / "cg_videos_720p/x1.mp4",
        pictures=np.stack([np.full((SIDE, SIDE, 3), 15 * i, np.uint8) for i in range(2 * FPS)]),
    )
    for name in ("0.12_1.00", "0.00_1.50", "0.50_1.75"):
        write_video(root / f"ref_videos/x1_{name}.mp4")
    return 9


LAYOUTS = {
    "omnibench": omnibench,
    "dailyomni": dailyomni,
    "avodyssey": avodyssey,
    "worldsense": worldsense,
    "intentbench": intentbench,
    "cgav": cgav,
}
