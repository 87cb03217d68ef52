"""benchmarks/mvbench.py: read, asked and scored."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.base import Item, item
from benchmarks.files import first_file, letter_for, lettered, locate, rows

MVBENCH = {  # task: its folder under video/, whether its items have bounds in seconds
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
    """A file per task. Only the bounds of a clip are shown, where its task has them. The frames of tvqa are folders at 3 frames per second."""
    first_file(root, "json/*.json")
    for task, (folder, bounded) in MVBENCH.items():
        path = root / "json" / f"{task}.json"
        for i, row in enumerate(rows(path) if path.is_file() else []):
            name, top = f"mvbench-{task}-{i}", folder.split("/")[0]
            places = (
                f"video/{folder}",
                f"video/{top}/{folder}",
                f"video/data0613/{folder}",
                f"video/data0613/data0613/{folder}",
            )
            video = locate(
                root,
                *[
                    f"{p}/{file}"
                    for p in places
                    for file in (row["video"], Path(row["video"]).with_suffix(".mp4"))
                ],
            )
            span = (
                (max(0.0, float(row["start"])), float(row["end"]))
                if bounded and row.get("end") is not None
                else None
            )
            if span and not span[0] < span[1]:  # a few bounds of the hub's files run backwards
                span = None
            yield item(
                name,
                row["question"],
                letter_for(row["answer"], row["candidates"]),
                lettered(row["candidates"]),
                videos=[video],
                labels={"task": task},
                span=span,
                frame_rate=3.0 if top == "tvqa" else 0.0,
            )
