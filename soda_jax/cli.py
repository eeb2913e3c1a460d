"""What the command lines share."""

import sys

from absl import flags


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a wrong config file or field ends with one line instead of a traceback."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {error}\nRun with --helpshort to see the flags.")
    except (AttributeError, KeyError) as error:  # from an override, --config.FIELD=VALUE
        name = str(error.args[0]).replace("\\n", ". ").translate({ord(c): None for c in "\\'\""})
        sys.exit(f"error: the config has no field {name}")
    except (TypeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
