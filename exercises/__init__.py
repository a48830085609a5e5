"""The exercises: one judge, and for each exercise its cases and its named mistakes."""
