"""Locomotion: a half cheetah, an ant and a walker run as fast as they can."""
