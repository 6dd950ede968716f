"""Where the `tlcourse` command starts: Ctrl-C while Python imports the package is one line too."""

import sys


def main() -> int:
    """Run the command, and return its status."""
    try:
        from tlcourse import cli
    except KeyboardInterrupt:
        print("tlcourse: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    return cli.main()
