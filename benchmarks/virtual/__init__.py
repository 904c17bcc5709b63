"""The scheduler in virtual time, on machines that exist only as numbers."""
