"""What the command line of training asks, says and returns."""
