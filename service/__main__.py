"""``python -m service``: the server process. Signals are heeded from here on: what is imported takes a second."""

import signal
import sys

for each in (signal.SIGTERM, signal.SIGINT):
    signal.signal(each, lambda *_: sys.exit(0))  # nothing was accepted yet
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # no bundle was read yet

if __name__ == "__main__":
    from service.process import main

    sys.exit(main())
