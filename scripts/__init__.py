"""What a reader or a teacher runs: set up, run, seeds. From the root: python -m scripts.NAME."""
