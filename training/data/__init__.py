"""Data sets: archives, folders of images, digits; read, checked, split, handed out in batches."""
