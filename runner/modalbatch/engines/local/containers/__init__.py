"""Processes that run user code: scheduling, start, logs, end. `guest_*` runs under an image's interpreter.

Runs on: laptop.
"""
