"""Simulators: one folder per family, a perturbation wrapper, and vectorisation over processes. Nothing here knows a method or torch."""
