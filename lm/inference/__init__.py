"""Using a model: `generate` writes with a cache, `fill` guesses masks, `chat` answers,
`command` serves the shell, `uses` says what a checkpoint is for.

Nothing is imported here: `lm generate --help` answers without torch.
"""
