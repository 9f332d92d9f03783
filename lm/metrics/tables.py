"""Figures in columns, for a terminal."""

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> str:
    """Rows of cells, equally many each, as lines whose columns stand under each other.

    Args:
        rows: the first one is most often the columns' names.
        left: the columns of words, which begin under each other; others are of numbers, and end so.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)
