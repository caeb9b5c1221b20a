"""Task definitions that come with the package: one YAML file per family of tasks, and no code."""
