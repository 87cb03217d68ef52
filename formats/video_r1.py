"""formats/video_r1.py: records of Video-R1, EchoInk's AVQA-R1 and HumanOmniV2's IntentTrain."""

import re
from os.path import normpath

from formats.fields import gold_answer, list_of, take_soundtrack, text_of
from formats.sample import KINDS, DataError


def problem_record(record: dict, where: str) -> dict:
    """A record of Video-R1, EchoInk's AVQA-R1 or HumanOmniV2's IntentTrain -> Sample's arguments.

    `path` is a path of `data_type`, or {image, audio, video}. The trace of stage 0 is the `process` of Video-R1-COT or the think block of the
    solution, then the answer block; IntentTrain's <context> block is left out, for the format reward wants think, then answer.
    """
    path, kind = record.get("path"), str(record.get("data_type"))
    if not path and record.get("video"):  # some files of IntentTrain
        path, kind = record["video"], "video"
    paths = path if isinstance(path, dict) else {kind: path}
    if not any(paths.values()) or set(paths) - set(KINDS):
        raise DataError(
            f"{where}: field 'path' must be a file's path beside a 'data_type' of video, image or audio, or an object of such paths by kind, "
            f"as {{'image': .., 'audio': ..}}; got {path!r} and {kind!r}"
        )
    name = "answer" if "solution" not in record and "answer" in record else "solution"
    solution = text_of(record, name, where)
    answer = gold_answer(solution, name, where)
    think = text_of(record, "process", where, needed=False).strip() or "".join(
        re.findall(r"<think>.*?</think>", solution, re.DOTALL)[:1]
    )
    return take_soundtrack(
        {
            "question": text_of(record, "problem", where),
            "problem_type": text_of(record, "problem_type", where),
            "answer": answer,
            "options": list_of(record.get("options"), "options", where),
            "trace": f"{think}\n<answer>{answer}</answer>" if think else "",
            **{
                f"{kind}s": [normpath(p) for p in list_of(paths.get(kind), "path", where)]
                for kind in KINDS
            },
        }
    )
