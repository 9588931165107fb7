"""RPCs, one module per part of Modal's service: translation between requests and the engine. Runs on: laptop."""
