"""Measuring: every figure in our prose comes from a command in here and a result file that it wrote."""
