"""The text of a document in capitals."""


def shout(record):
    """The record with its `text` in capitals."""
    return {**record, "text": record["text"].upper()}
