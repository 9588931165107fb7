"""What was asked and what has come back: calls, their inputs, their results, and the limits on them.

Runs on: laptop.
"""
