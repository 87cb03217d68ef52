"""Open answers and their judge. (Whole runs: tests/test_eval.py.)"""

from benchmarks.base import new_item
from benchmarks.inference import judge_open_answers
from benchmarks.results import NO_ANSWER, NO_VERDICT
from benchmarks.statistics import summarise
from benchmarks.table import BENCHMARKS


class CannedJudge:
    """A judge that says yes to "right", no to "wrong", and first mumbles about "odd"; it never
    makes up its mind about "never"."""

    def __init__(self):
        self.asked = 0

    def ask(self, requests):
        self.asked += len(requests)
        is_second_try = len(requests) == 2
        return [self.reply(request.text, is_second_try) for request in requests]

    def reply(self, text: str, is_second_try: bool) -> str:
        if "odd" in text and is_second_try:
            return '{"correct": true}'
        if "right" in text:
            return '{"extracted_answer": "x", "correct": true}'
        if "wrong" in text:
            return '```json\n{"extracted_answer": "x", "correct": False}\n```'
        return "hm"


def test_open_answers_wait_for_their_judge():
    """Without a judge they have no score; with one, later, they get it without being asked
    again."""
    benchmark = BENCHMARKS["mmvu"]
    labels = {"question_type": "open-ended", "discipline": "Art"}
    items = []
    results = []
    for i, answer in enumerate(["right", "wrong", "odd", "never", ""]):
        items.append(new_item(f"m{i}", "What?", "gold", [], "free-form", labels=labels))
        results.append(
            {
                "id": f"m{i}",
                "video": str(i),
                "labels": labels,
                "answer": answer,
                "parts": {"score": None},
                "failure": None if answer else NO_ANSWER,
                "reason": None,
                "sound": "off",
                "tokens": 1,
                "finished": True,
                "seconds": 0.0,
            }
        )

    assert judge_open_answers(None, "", benchmark, items, results) == []
    before = summarise(results, benchmark, 100)
    assert before["unjudged"] == 5
    assert before["metrics"] == {}  # a failure alone does not make a score
    assert before["failures"] == {NO_ANSWER: 1}

    judge = CannedJudge()
    judged = judge_open_answers(judge, "wise", benchmark, items, results)
    assert [result["score"] for result in judged] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert {result["judge"] for result in judged} == {"wise"}
    failures = [result["failure"] for result in judged]
    assert failures == [None, None, None, NO_VERDICT, NO_ANSWER]
    assert judge.asked == 6  # the empty answer was not asked about
    assert judge_open_answers(judge, "wise", benchmark, items, results) == []
    assert judge.asked == 6
    assert summarise(results, benchmark, 100)["metrics"]["accuracy"]["value"] == 0.4
