"""Metaworld: fifty manipulation tasks of one robot arm."""
