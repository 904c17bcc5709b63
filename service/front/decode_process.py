"""The decoding of one large image, in a process of its own; ``images.py`` runs this file.

It reads the image's file from stdin and writes its pixels, uint8 (size, size, 3), to stdout. Of a damaged one it writes why
to stderr, and ends with ``BROKEN``. In a process it can be killed, and keeps no interpreter from requests: Pillow copies a
WebP of 25 megapixels with the interpreter's lock held.
"""

import json
import os
import sys
from pathlib import Path

BROKEN = 3  # the exit code
NICENESS = 10  # on a busy core, it gets a tenth of it


def main() -> int:
    """Decode what comes; the argument is the ``Preprocessing`` as JSON."""
    os.nice(NICENESS)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from PIL import Image

    from model.image_files import BrokenImage, read_image_file
    from model.images import to_pixels
    from model.preprocessing import Preprocessing

    Image.MAX_IMAGE_PIXELS = None  # its pixels were counted before
    preprocessing = Preprocessing(**json.loads(sys.argv[1]))
    try:
        pixels = to_pixels(read_image_file(sys.stdin.buffer.read()), preprocessing)
    except BrokenImage as error:
        sys.stderr.write(str(error))
        return BROKEN
    sys.stdout.buffer.write(pixels.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
