"""The pairs that a step can use: a window that slides over the numbered stream."""


def window_at(step: int, fresh: int, size: int) -> list[int]:
    """Numbers of the pairs in the window at training step `step`, in the order of their places.

    The first `size` numbers to begin with; at every step `fresh` new ones push out as many of the oldest. Number n is
    always kept in place n modulo `size`.
    """
    first = step * fresh
    return sorted(range(first, first + size), key=lambda number: number % size)
