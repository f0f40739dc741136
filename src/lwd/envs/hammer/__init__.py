"""Adroit: a hand of 24 joints on an arm drives a nail into a board with a hammer."""
