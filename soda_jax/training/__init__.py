"""Training: the loop in its fixed order, the evaluation within it, and what to do when data, time or a process ends."""
