"""What `--mode=evaluate` can measure, one file an evaluator."""
