"""engine/batching.py: rows -> batches of at most so many tokens."""


def split_by_tokens(rows: list, tokens: list[int], max_tokens: int) -> list[list]:
    """Rows in order, cut into lists of at most max_tokens tokens; a single longer row stands alone.

    >>> split_by_tokens(["a", "b", "c", "d"], [3, 4, 9, 1], 8)
    [['a', 'b'], ['c'], ['d']]
    """
    batches: list[list] = []
    room = -1
    for row, n in zip(rows, tokens, strict=True):
        if n > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(row)
        room -= n
    return batches
