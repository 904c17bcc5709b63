"""A run on disk: its checkpoint, its figures, and what it may begin with."""
