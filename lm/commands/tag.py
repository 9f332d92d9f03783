"""`lm tag`: the entities of sentences."""

from lm.commands.shared import task_parser, texts, use_task

EXAMPLE = '{"text": "…"} or {"words": ["…"]}'


def main(argv: list[str]) -> None:
    """The command `lm tag`."""
    parser = task_parser(
        "tag",
        "Find the entities of sentences, or tag their words. Sentences are arguments, or lines of standard "
        f"input: plain, or JSON Lines such as {EXAMPLE}. Then JSON Lines come out: each line's fields with "
        "`words`, `tags` and `entities`, whose `start` and `end` count the text's characters, or without one "
        "those of the words with spaces between. Words are what white space separates (of a model that was "
        "trained on Chinese characters: the characters): give punctuation apart if it was so in training.",
        "msra-ner",
    )
    parser.add_argument(
        "texts", metavar="TEXT", nargs="*", help="sentences; standard input where there is none"
    )
    args = parser.parse(argv)
    use_task(args, "tag", texts(args.texts), EXAMPLE)
