"""The server: a request with a deadline goes in, the most accurate answer that fits comes out."""

__version__ = "0.1.0"
