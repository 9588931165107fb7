"""Web functions over HTTP: from a request on loopback to an input, and from what is yielded to a response."""
