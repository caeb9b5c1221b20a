"""From data files to memory-mapped features and one-task batches."""
