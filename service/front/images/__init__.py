"""Image files to pixels, within bounds of time and memory."""
