"""Spec to Job to app source. Runs on: laptop.

Owns what a spec means and how it reads as a Modal app; runs nothing.
"""
