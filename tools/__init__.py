"""What keeps the workbook right: mutants, drift, truth, pins. Run as python -m tools.NAME."""
