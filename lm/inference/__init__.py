"""Using a model: `generate` writes with a cache, `fill` guesses masks, `command` serves the shell.

Nothing is imported here: `lm generate --help` answers without torch.
"""
