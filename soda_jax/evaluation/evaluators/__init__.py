"""Evaluators: each a class with `run(...)` that returns {name: value}."""
