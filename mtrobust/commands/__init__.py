"""The subcommands, one file each: `run(argv) -> exit code`. Heavy rooms are imported inside functions only."""
