class Classifier:
    def __init__(self, labels, threshold):
        self.labels = labels

    def __call__(self, records):
        return records
