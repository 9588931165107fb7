"""Faults on request: who is hit, and what happens. Runs on: laptop."""
