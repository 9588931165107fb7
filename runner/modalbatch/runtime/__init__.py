"""What runs in a worker container: the supervisor, its slots, the handler. Runs on: container."""
