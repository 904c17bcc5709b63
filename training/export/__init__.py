"""From a checkpoint to a bundle, and the report of it."""
