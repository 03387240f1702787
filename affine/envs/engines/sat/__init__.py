"""SAT formulas."""
