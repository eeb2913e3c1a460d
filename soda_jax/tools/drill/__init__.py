"""The fault drill: see `__main__`."""
