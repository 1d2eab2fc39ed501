"""The course: exercises cut from the package, their grading, and the learner's parts. Loads without torch."""
