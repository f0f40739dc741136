"""Demonstrations: the `Episodes` container, its readers, the normaliser, and the snippet sampler."""
