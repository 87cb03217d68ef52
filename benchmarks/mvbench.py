"""benchmarks/mvbench.py: MVBench, 20 tasks about short clips."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Benchmark, Item, Metric, new_item
from benchmarks.files import first_file, letter_for, lettered, locate, rows

# task: its folder under video/, and whether its items have bounds in seconds
TASKS = {
    "action_sequence": ("star/Charades_v1_480", True),
    "action_prediction": ("star/Charades_v1_480", True),
    "action_antonym": ("ssv2_video", False),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", False),
    "unexpected_action": ("FunQA_test/test", False),
    "object_existence": ("clevrer/video_validation", False),
    "object_interaction": ("star/Charades_v1_480", True),
    "object_shuffle": ("perception/videos", False),
    "moving_direction": ("clevrer/video_validation", False),
    "action_localization": ("sta/sta_video", True),
    "scene_transition": ("scene_qa/video", False),
    "action_count": ("perception/videos", False),
    "moving_count": ("clevrer/video_validation", False),
    "moving_attribute": ("clevrer/video_validation", False),
    "state_change": ("perception/videos", False),
    "fine_grained_pose": ("nturgbd", False),
    "character_order": ("perception/videos", False),
    "egocentric_navigation": ("vlnqa", False),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", True),
    "counterfactual_inference": ("clevrer/video_validation", False),
}


def read_mvbench(root: Path, scratch: Path) -> Iterator[Item]:
    """A file per task; tasks without a file are left out."""
    first_file(root, "json/*.json")
    for task, (folder, is_bounded) in TASKS.items():
        path = root / "json" / f"{task}.json"
        if not path.is_file():
            continue
        for i, row in enumerate(rows(path)):
            yield new_item(
                f"mvbench-{task}-{i}",
                row["question"],
                letter_for(row["answer"], row["candidates"]),
                lettered(row["candidates"]),
                videos=[mvbench_video(root, folder, row["video"])],
                labels={"task": task},
                span=bounds(row) if is_bounded else None,
                frame_rate=3.0 if folder.startswith("tvqa/") else 0.0,  # folders of frames
            )


def mvbench_video(root: Path, folder: str, name: str) -> str:
    """A video, wherever its zip was unpacked; some names have another suffix than their file."""
    top = folder.split("/")[0]
    names = []
    for parent in (
        f"video/{folder}",
        f"video/{top}/{folder}",
        f"video/data0613/{folder}",
        f"video/data0613/data0613/{folder}",
    ):
        names += [f"{parent}/{name}", f"{parent}/{Path(name).with_suffix('.mp4')}"]
    return locate(root, *names)


def bounds(row: dict) -> tuple[float, float] | None:
    """The part that is shown, in seconds; all of it where a row has no bounds, or bounds that run
    backwards, as a few of the hub's do."""
    if row.get("end") is None:
        return None
    start, end = max(0.0, float(row["start"])), float(row["end"])
    return (start, end) if start < end else None


BENCHMARK = Benchmark(
    title="MVBench",
    files="OpenGVLab/MVBench: json/, video/ (all zips unpacked there)",
    read=read_mvbench,
    splits=("task",),
    size=4_000,
    sound=False,
    rule=(
        "letter; gold is the candidate whose text is the answer; mean over the 20 tasks; only the "
        "clip's bounds are shown"
    ),
    several="first",
    metrics=(Metric("mean over tasks", over=("task",)), Metric("accuracy")),
    paper=(
        "Question: {question}\nOptions:\n{round}\nYour answer should be a single capital letter "
        "representing your choice."
    ),
    tokens=4096,
)
