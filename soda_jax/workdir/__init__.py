"""Everything that a run's folder holds: checkpoints, the lock, records, metrics and images."""
