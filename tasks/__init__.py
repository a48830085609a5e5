"""Tasks: each makes its splits from a seed, or reads real data, and scores answers."""
