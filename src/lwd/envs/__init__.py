"""Simulators: one folder per family, wrappers that disturb, and vectorisation over processes. Nothing here knows a method or torch."""
