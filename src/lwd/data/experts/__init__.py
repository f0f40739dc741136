"""Scripted experts: programs that solve a task and stand in for a human operator. What they make is labelled synthetic."""
