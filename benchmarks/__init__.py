"""Measurements of the scheduler in virtual time and of the real server; they measure, and never assert."""
