"""The engine's clock, and functions that it starts by themselves. Runs on: laptop."""
