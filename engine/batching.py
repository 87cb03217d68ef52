"""engine/batching.py: rows -> batches of at most so many tokens."""


def split_by_tokens(rows: list, tokens: list[int], max_tokens: int) -> list[list]:
    """Cut rows, in order, into batches of at most max_tokens tokens.

    tokens: of each row. A row that is longer than max_tokens is a batch of its own.

    >>> split_by_tokens(["a", "b", "c", "d"], [3, 4, 9, 1], 8)
    [['a', 'b'], ['c'], ['d']]
    """
    batches: list[list] = []
    in_batch = 0  # tokens of the last batch
    for row, n in zip(rows, tokens, strict=True):
        if not batches or in_batch + n > max_tokens:
            batches.append([])
            in_batch = 0
        batches[-1].append(row)
        in_batch += n
    return batches
