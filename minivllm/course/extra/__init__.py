"""References of exercises whose subject is not in the package: predictions, warm-ups, tests to write."""
