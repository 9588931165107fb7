"""Words of one verse."""

from collections import Counter


def count(record):
    """The verse's id with how many words it has, how many different ones, and the most frequent of them."""
    words = [word.strip(".,;:?!()[]'\"").lower() for word in record["text"].split()]
    counts = Counter(word for word in words if word)
    # Ties by the alphabet: the same verse gives the same record on every machine.
    top, times = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"id": record["id"], "words": counts.total(), "distinct": len(counts), "top": top, "times": times}
