"""Devices and processes: meshes and placement, the start and end of several processes."""
