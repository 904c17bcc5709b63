"""Networks compared, as the paper and the field do."""
