"""formats/messages.py: records of AVATAR and ms-swift: chat messages."""

from os.path import normpath

from formats.fields import gold_answer, list_of, text_of
from formats.sample import KINDS, DataError


def messages_record(record: dict, where: str) -> dict:
    """A record of AVATAR / ms-swift's GRPO JSONL -> Sample's arguments.

    The system turn is dropped: it holds the released trainer's think / answer instruction, and our prompt carries its own. A last assistant turn is
    the trace (and holds the answer where there is no `solution`). Media without a placeholder get one at the front, in ms-swift's order; an audio
    here is always an item of its own, never a video's sound track. Raises DataError for a dialogue of several user turns.
    """
    turns = record["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(
            f"{where}: field 'messages' must be a list of objects with 'role' and 'content'; mend it, or remove the record"
        )
    turns = [turn for turn in turns if turn.get("role") != "system"]
    trace = (
        text_of(turns.pop(), "content", where, needed=False).strip()
        if turns and turns[-1].get("role") == "assistant"
        else ""
    )
    if [turn.get("role") for turn in turns] != ["user"]:
        raise DataError(
            f"{where}: field 'messages' must hold one user turn, with at most a system turn before and an assistant turn after it; "
            f"got {', '.join(str(turn.get('role')) for turn in turns) or 'none'}; make single prompts of the dialogue"
        )
    question, options = (
        text_of(turns[0], "content", where),
        list_of(record.get("options"), "options", where),
    )
    text = "\n".join([question, *options])
    media = {
        f"{kind}s": [normpath(p) for p in list_of(record.get(f"{kind}s"), f"{kind}s", where)]
        for kind in KINDS
    }
    front = "".join(
        f"<{kind}>" * (len(media[f"{kind}s"]) - text.count(f"<{kind}>"))
        for kind in ("video", "audio", "image")
    )
    solution = (
        trace if trace and record.get("solution") is None else text_of(record, "solution", where)
    )
    return {
        "question": front + question,
        "problem_type": text_of(record, "problem_type", where),
        "answer": gold_answer(solution, "solution", where),
        "options": options,
        "hint": " ".join(list_of(record.get("hint"), "hint", where)),
        "audio_caption": text_of(record, "audio_cues", where, needed=False),
        "trace": trace,
        **media,
    }
