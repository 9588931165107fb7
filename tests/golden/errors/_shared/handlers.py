"""Handlers of all wrong specs."""

import functools

LIMIT = 3
alias = functools.partial(print)


def count(record):
    return record


def scale(record, factor, *, offset):
    return record


def nothing():
    return None


class Embedder:
    def __init__(self, model, dim=3):
        self.model = model

    def __call__(self, record):
        return record


class Silent:
    def run(self, record):
        return record


class Greedy:
    def __call__(self, record, other):
        return record


class Mute:
    def __call__(self):
        return None
