"""``python -m service`` is ``anytime serve``."""

import os
import sys

# With -m Python looks into the current folder first, whose own ``model`` would stand in for the one that was installed.
if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]

if __name__ == "__main__":
    from service.cli import main

    main(["serve", *sys.argv[1:]])
