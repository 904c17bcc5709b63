"""The decoding of one large image, in a process of its own, which the kernel holds to its limits; ``decoder.py`` runs this file.

It reads the image's file from stdin and writes its pixels, uint8 (size, size, 3), to stdout. Of a damaged one it writes why
to stderr, and ends with ``BROKEN``; of one that takes too much memory with ``TOO_LARGE``. In a process it can be killed, and keeps no interpreter from requests: Pillow copies a
WebP of 25 megapixels with the interpreter's lock held.
"""

import json
import os
import sys
from pathlib import Path

BROKEN, TOO_LARGE = 3, 4  # the exit codes
NICENESS = 10  # on a busy core, it gets a tenth of it


def main() -> int:
    """Decode what comes; the arguments are the ``Preprocessing`` as JSON, and its most seconds and bytes."""
    os.nice(NICENESS)
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from PIL import Image

    from model.image_files import BrokenImage, read_image_file
    from model.images import to_pixels
    from model.preprocessing import Preprocessing
    from service.front.images.kernel_limits import hold_cpu_time, hold_memory

    Image.MAX_IMAGE_PIXELS = None  # its pixels were counted before
    preprocessing = Preprocessing(**json.loads(sys.argv[1]))
    hold_cpu_time(int(sys.argv[2]))
    hold_memory(int(sys.argv[3]))
    try:
        pixels = to_pixels(read_image_file(sys.stdin.buffer.read()), preprocessing)
    except MemoryError:
        return TOO_LARGE
    except BrokenImage as error:
        sys.stderr.write(str(error))
        return BROKEN
    sys.stdout.buffer.write(pixels.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
