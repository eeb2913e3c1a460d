"""Models that are handed on: those that come with the package, repositories of the hub, archives at an address."""
