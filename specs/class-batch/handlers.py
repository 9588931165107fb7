"""A stand-in for a model: slow to construct, cheap to call with many records."""


class Classifier:
    """Sorts texts by their length."""

    def __init__(self, labels, threshold):
        self.labels = labels
        self.threshold = threshold

    def __call__(self, records):
        """One result for each record; an exception in the list is the failure of that record alone."""
        return [self.classify(record) for record in records]

    def classify(self, record):
        """The label of one record."""
        if not record["text"]:
            return ValueError("there is no text to classify")
        return {"label": self.labels[len(record["text"]) > self.threshold], "length": len(record["text"])}

    def close(self):
        """Called once, when the slot ends: the place to free a GPU or close a connection."""
        self.labels = None
