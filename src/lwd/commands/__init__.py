"""The verbs of the command line: one file per verb, with its options and its action."""
