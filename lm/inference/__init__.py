"""Using a model: `generate` writes with a cache, `batch` many texts at once, `fill` guesses masks, `chat`
answers, `lines` is what comes on standard input.

Nothing is imported here: `lm generate --help` answers without torch.
"""
