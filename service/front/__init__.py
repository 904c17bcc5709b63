"""HTTP: from the bytes of a connection to a request, and from an answer to its reply."""
