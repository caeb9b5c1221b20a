"""Comparison tables from run folders: reading, grouping, intervals, tables, plots. `mtrobust report` calls `write`."""
