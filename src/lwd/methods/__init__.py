"""Methods: each one is a file with its modules, its `loss` and its `plan`."""
