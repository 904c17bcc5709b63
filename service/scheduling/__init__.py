"""PURE: what runs next, in which subnetwork. Time is passed in; nothing here waits, reads a clock, or draws a number."""
