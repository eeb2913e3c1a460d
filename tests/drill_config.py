"""A config for the fault drill that compiles in seconds: an encoder of one unit."""

from ml_collections import ConfigDict

from tests import tiny


def get_config() -> ConfigDict:
    return tiny.scenes_config("")
