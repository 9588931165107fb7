class Embedder:
    def __init__(self, model, prompt, weights):
        self.model = model

    def __call__(self, records):
        return records
