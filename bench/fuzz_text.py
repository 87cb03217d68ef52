"""Texts for bench/fuzz.py: replies of a model, verdicts of a judge, records of data sets."""

import itertools
import json
import math
import tempfile
import time
from pathlib import Path

from fuzz_tally import Tally, run_hypothesis
from hypothesis import strategies as st

from benchmarks.base import new_item, read_answer
from benchmarks.scoring import cluster_score, clusters_in, open_match
from data import chat_text
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config
from formats.load import load_samples
from formats.sample import DataError
from judge import CRITERIA, parse_verdict
from problems import PROBLEM_TYPES
from rewards import accuracy_reward, final_answer, format_reward, split_completion

SLOWEST = 5.0  # CPU-seconds that reading one input may take

# --------------------------------------------------------------------------- pieces of texts

# What models write, and what readers look for
WORDS = [
    *("<answer>", "</answer>", "<think>", "</think>", "\\boxed{", "}", "**", "```json", "```"),
    *("A", "B", "C", "I", "a", "b", "(B)", "[A]", "B.", "A)", "Option C", "A, B", "A/V", "N/A"),
    *("The answer is", "is correct", "is wrong", "not", "so", "I'm", "because", "or", "and"),
    *("red", "blue", "A blue car", "60 °C", "-5.12%", "v1 < v2", "yes", "No", "true", "none"),
    *("0", "1", "5", "10", "1,200", "0,75", "-3", "1e9", "1_0", "½", "٣", "五", "twenty one"),
    *("1:02:03", "[1, 2]", "[[1, 2], [3, 4]]", "from 3 to 5 s", "left:", "|", ";", "NaN", "inf"),
    *('{"Frame1": [[1, 2, 3, 4]]}', '{"bbox": [1, 2, 3, 4], "label": "x"}', "{", "[", "]", '"'),
    *("答案是", "选B", "红色", "красный", "मेज", "テーブル", "العربية", "é", "e\u0301", "ﬁ"),
    *(" ", "\n", "\n\n", "\t", "\0", "\u2028", "\u200b", "\ufeff", "\ud83d", "😀", "\u2212", "．"),
    *('"audio": 1', '"visual": 0.5', '"location": 0', '"caption": 1.0', "null", "Infinity", ":"),
]
PIECE = st.one_of(st.sampled_from(WORDS), st.text(max_size=6))


def joined(pieces: list[str]) -> str:
    return "".join(pieces)


def spaced(pieces: list[str]) -> str:
    return " ".join(pieces)


def repeated(parts: tuple[str, str, int, str]) -> str:
    before, piece, times, after = parts
    return before + piece * times + after


SENTENCES = st.lists(PIECE, max_size=30).map(spaced)
GLUED = st.lists(PIECE, max_size=30).map(joined)
LONG = st.tuples(SENTENCES, PIECE, st.sampled_from([100, 3_000]), SENTENCES).map(repeated)
JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**400), 10**400),
        st.floats(),
        PIECE,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.sampled_from(["Frame1", "Frame 2", "bbox", "label", *CRITERIA]), inner),
    ),
    max_leaves=15,
)
AS_JSON = JSON_VALUES.map(json.dumps)


def labelled(kind: str, texts) -> st.SearchStrategy:
    """(kind, text) of each text."""
    return texts.map(lambda text: (kind, text))


TEXTS = st.one_of(
    labelled("sentences", SENTENCES),
    labelled("glued pieces", GLUED),
    labelled("long repeats", LONG),
    labelled("JSON", AS_JSON),
    labelled("any characters", st.text(max_size=200)),
)


def check_seconds(start: float, what: str) -> None:
    """Raises TimeoutError where more than SLOWEST CPU-seconds went by since `start`."""
    seconds = time.process_time() - start
    if seconds > SLOWEST:
        raise TimeoutError(f"{what} took {seconds:.1f} CPU-seconds")


# --------------------------------------------------------------------------- replies
OPTIONS = [
    ["A. red", "B. blue", "C. A blue car", "D. 60 °C"],
    ["A. Yes, he does", "B. No, he does not"],
    [f"{letter}. {text}" for letter, text in zip("ABCDEFGHIJ", WORDS[40:50], strict=True)],
    [],
]
GOLDS = {
    "multiple choice": "B",
    "multi-label": "A, B",
    "yes/no": "yes",
    "temporal": "[1, 2]",
    "localisation": "left: red square",
    "OCR": "EXIT",
    "free-form": "a red disc",
    "code": "x = 1",
}
BOXES = [[(0, (1.0, 2.0, 3.0, 4.0))]]
SPANS = [[(1.0, 2.0)]]


def fuzz_replies(until: float) -> Tally:
    """Every reader and scorer on what a model may write."""
    return run_hypothesis(TEXTS, check_reply, until)


def check_reply(case: tuple[str, str]) -> tuple[str, str]:
    kind, text = case
    check_parts(text)
    n_read = 0
    for problem, options in itertools.product(PROBLEM_TYPES.values(), OPTIONS):
        start = time.process_time()
        n_read += check_problem(problem, text, options)
        check_seconds(start, f"reading a reply of {len(text):,} characters as {problem.name}")
    check_clues(text)
    return kind, "read as an answer" if n_read else "no answer"


def check_parts(text: str) -> None:
    """The tags of a completion."""
    split_completion(text)
    if format_reward(text) not in (0.0, 1.0):
        raise AssertionError(f"format reward {format_reward(text)}")
    check_score(open_match(final_answer(text), "a red disc"))


def check_problem(problem, text: str, options: list[str]) -> bool:
    """One problem type, as in training and as in evaluation; whether it reads an answer."""
    gold = GOLDS.get(problem.name, "3")
    read = problem.read(text, options)
    if read is not None and not isinstance(read, str):
        raise AssertionError(f"{problem.name} reads {read!r}")
    check_score(problem.score(text, gold, options))
    check_score(accuracy_reward(text, gold, problem.name, options))

    # benchmarks take the first or the last of several letters
    item = new_item("a", "q", gold, options, problem.name, videos=["a.mp4"])
    for several in ("first", "last"):
        answer = read_answer(item, text, several)
        if not isinstance(answer, str):
            raise AssertionError(f"{problem.name} answers {answer!r}")
        if problem.name == "multiple choice" and answer not in ("", *(o[0] for o in options)):
            raise AssertionError(f"letter {answer!r}, which no option has")
        check_score(accuracy_reward(answer or None, gold, problem.name, options))
    return read is not None


def check_clues(text: str) -> None:
    """Boxes and times of CG-AV-Counting."""
    for category, gold in (("event", SPANS), ("object", BOXES), ("attribute", BOXES)):
        predicted = clusters_in(category, text)
        if predicted is not None:
            check_score(cluster_score(category, gold, predicted))


def check_score(score: float) -> None:
    if not (math.isfinite(score) and 0 <= score <= 1 + 1e-9):
        raise AssertionError(f"score {score}")


# --------------------------------------------------------------------------- verdicts
SCORES = st.one_of(st.floats(0, 1), st.integers(0, 1), JSON_VALUES)
VERDICT = st.fixed_dictionaries(dict.fromkeys(CRITERIA, SCORES)).map(json.dumps)
IN_PROSE = st.tuples(SENTENCES, VERDICT, SENTENCES).map(joined)


def fuzz_verdicts(until: float) -> Tally:
    """The reader of a judge's replies."""
    texts = st.one_of(TEXTS, labelled("verdicts in prose", IN_PROSE))
    return run_hypothesis(texts, check_verdict, until)


def check_verdict(case: tuple[str, str]) -> tuple[str, str]:
    kind, text = case
    start = time.process_time()
    verdict = parse_verdict(text)
    check_seconds(start, "reading a verdict")
    if verdict is None:
        return kind, "no verdict"
    if verdict.keys() != CRITERIA.keys():
        raise AssertionError(f"verdict {verdict}")
    for score in verdict.values():
        check_score(score)
    return kind, "a verdict"


# --------------------------------------------------------------------------- records
FORMS = {
    "ours": {
        "id": "a",
        "question": "Which?",
        "problem_type": "multiple choice",
        "options": ["A. red", "B. blue"],
        "answer": "B",
        "video": "a.mp4",
    },
    "Video-R1": {
        "problem_id": 7,
        "problem": "What falls?",
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": ["A. cup", "B. ball"],
        "solution": "<answer>B</answer>",
        "path": "./x.mp4",
    },
    "messages": {
        "messages": [{"role": "user", "content": "<video>How many knocks?"}],
        "videos": ["a.mp4"],
        "solution": "<think>so</think><answer> 3 </answer>",
        "problem_type": "numerical",
    },
}
FIELDS = [
    *("id", "question", "problem_type", "options", "answer", "video", "image", "audio", "hint"),
    *("stage", "soundtrack", "audio_caption", "trace", "plan", "scene", "kind", "problem"),
    *("problem_id", "data_type", "solution", "path", "messages", "videos", "audios", "images"),
]
TYPE_NAMES = list(PROBLEM_TYPES)
ODD_TEXTS = [
    *("../a.mp4", "/etc/passwd", "a.mp4#t=", "a.mp4#t=1,2", "a.mp4#t=-1", "a\0b", "x" * 5000),
    *("<video><video>", "<answer>", "<think>" * 9000, "<answer>" * 9000, "", " ", "50%", "$5$"),
    *TYPE_NAMES,
]
VALUES = st.one_of(JSON_VALUES, st.sampled_from(ODD_TEXTS))
DAMAGE = st.one_of(
    st.none(),
    st.tuples(st.just("flip"), st.integers(0, 10**6), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.integers(0, 10**6), st.just(0)),
    st.tuples(st.just("insert"), st.integers(0, 10**6), st.sampled_from([0, 0x0D, 0x85, 0xFF])),
    st.tuples(st.just("nest"), st.integers(1, 100_000), st.just(0)),
)
RECORDS = st.tuples(
    st.sampled_from(list(FORMS)),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3),
    st.sets(st.sampled_from(FIELDS), max_size=2),  # fields that are left away
    DAMAGE,
    st.sampled_from([".jsonl", ".json", ".yaml"]),
)


def fuzz_records(until: float) -> Tally:
    """Files of one odd and one good record, and what training makes of those that are taken."""
    tokenizer, _ = load_tokenizer_and_config(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        return run_hypothesis(
            RECORDS, lambda case: check_record(case, Path(folder), tokenizer), until
        )


def check_record(case, folder: Path, tokenizer) -> tuple[str, str]:
    form, values, missing, damage, suffix = case
    odd = {name: value for name, value in (FORMS[form] | values).items() if name not in missing}
    path = write_records(folder, odd, FORMS[form], damage, suffix)
    kind = f"any form: {damage[0]}" if damage else f"{form}: odd values"

    # as training reads it, and as tools.check_data does, which lists all faults
    start = time.process_time()
    outcome = "refused in a sentence"
    problems: list[str] = []
    for arguments in ({}, {"problems": problems}):
        try:
            samples = load_samples(path, **arguments)
        except DataError as error:
            if "\n" in str(error).strip():
                raise AssertionError(f"a sentence of several lines: {error}") from None
            continue
        for sample in samples:
            check_sample(sample, tokenizer)
        outcome = "left out and named" if problems else "taken"
    check_seconds(start, "reading records")
    return kind, outcome


def write_records(folder: Path, odd: dict, good: dict, damage, suffix: str) -> Path:
    """A file of two records, with damaged bytes; a YAML names it."""
    records = [odd, good | {"id": "good"} if "id" in good else good]
    if suffix == ".json":
        content = json.dumps(records).encode()
    else:
        content = "".join(json.dumps(record) + "\n" for record in records).encode()
    content = damaged(content, damage)

    if suffix != ".yaml":
        path = folder / f"x{suffix}"
        path.write_bytes(content)
        return path
    (folder / "x.json").write_bytes(content)
    path = folder / "x.yaml"
    path.write_text("datasets:\n- {json_path: x.json, data_root: .}\n")
    return path


def damaged(content: bytes, damage: tuple[str, int, int] | None) -> bytes:
    if damage is None:
        return content
    how, place, value = damage
    if how == "nest":
        return b"[" * place
    place %= len(content)
    if how == "cut":
        return content[:place]
    if how == "insert":
        return content[:place] + bytes([value]) + content[place:]
    changed = bytearray(content)
    changed[place] ^= 1 << value
    return bytes(changed)


def check_sample(sample, tokenizer) -> None:
    """What is taken can be shown, and its gold answer earns its reward."""
    text = chat_text(sample, tokenizer, hinted=True, audio_caption=True)
    tokenizer(text, add_special_tokens=False)
    reward = accuracy_reward(sample.answer, sample.answer, sample.problem_type, sample.options)
    if reward < 1:
        raise AssertionError(f"the gold answer {sample.answer!r} earns {reward} of itself")
