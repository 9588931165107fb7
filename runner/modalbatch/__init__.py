"""modalbatch: declarative batch jobs on Modal. Runs on: both."""

__version__ = "0.1.0"
