"""The corpus of replies: at least 99.5 % are read right, and no kind below 98 %."""

from tests.reading.corpus import corpus, is_read, table


def test_the_corpus_is_large_and_has_held_out_wordings():
    replies = corpus()
    assert len(replies) >= 4000
    assert sum(reply.heldout for reply in replies) >= 1500


def test_replies_are_read_right():
    replies = corpus()
    rows = table(replies)
    misread = [(r.text, r.answer, is_read(r)) for r in replies if is_read(r) != "right"][:20]
    assert rows["all"]["right"] >= 0.995 * rows["all"]["n"], misread
    for kind, row in rows.items():
        assert row["right"] >= 0.98 * row["n"], (kind, misread)
