"""Studies: one file per figure or table of the paper. Each declares a grid, runs it, and writes JSON, tables and figures."""
