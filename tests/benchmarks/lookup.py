"""What looking up the prompt wins a chat model: an answer that repeats the question's code, and an open one.

    python tests/benchmarks/lookup.py SMOLLM2

SMOLLM2 is the folder that smollm2.py writes. Seconds of the whole answer, the best of three in turns, and
whether the text is the same.
"""

import argparse
import time

import lm

CODE = '''class Account:
    """A bank account."""

    def __init__(self, owner: str, balance: float = 0.0) -> None:
        self.owner = owner
        self.balance = balance

    def deposit(self, amount: float) -> None:
        if amount <= 0:
            raise ValueError("The amount must be positive")
        self.balance += amount
'''
QUESTIONS = {
    "edit": f"Rewrite this Python class, adding a method `withdraw`, and print the whole class:\n{CODE}",
    "open": "Tell me about the history of bread.",
}


def main() -> None:
    """Ask both with and without."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--dtype", default="fp32")
    args = parser.parse_args()
    model = lm.load(args.model, dtype=args.dtype)
    for name, question in QUESTIONS.items():
        seconds: dict[int, list[float]] = {0: [], 4: [], 8: []}
        answers = {}
        for _ in range(3):
            for lookup, taken in seconds.items():
                start = time.perf_counter()
                answers[lookup] = model.chat(question, tokens=args.tokens, temperature=0, lookup=lookup)
                taken.append(time.perf_counter() - start)
        for lookup, taken in seconds.items():
            same = "the same text" if answers[lookup] == answers[0] else "another text"
            print(f"{name}, lookup {lookup}: {min(taken):.2f} s, {same}")


if __name__ == "__main__":
    main()
