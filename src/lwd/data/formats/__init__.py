"""Formats of files: one file each turns files into `Episodes`, and back."""
