"""What the server tells of itself: metrics, logs, and whether its answers were right."""
