"""The answer key of the workbook: short pure functions, each with its formula and source."""
