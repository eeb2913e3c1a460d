"""Encoding and sampling of host arrays, the checks of requests, and pictures (`--mode=sample`)."""
