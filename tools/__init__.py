"""What keeps the workbook right: mutants, truth, docs, drift, pins. Run as python -m tools.NAME."""
