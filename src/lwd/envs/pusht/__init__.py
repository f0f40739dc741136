"""PushT: a disc pushes a T-shaped block onto its goal pose."""
