"""jsonargparse's messages in a line or two."""


def explain(message: str) -> str:
    """The part of a parser's message that a person needs."""
    return message
