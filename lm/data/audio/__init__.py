"""Sounds for training: examples of speech, and how they are varied."""
