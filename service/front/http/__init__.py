"""HTTP/1.1: bytes to requests, bodies and replies to bytes; nothing here knows what is asked."""
