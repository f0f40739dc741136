"""Robosuite: a Panda arm lifts a cube, or puts a can into its bin."""
