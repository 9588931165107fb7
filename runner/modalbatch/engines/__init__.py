"""Where containers run: Modal, or this machine. Runs on: laptop.

Owns the choice of the engine and the client process that talks to it. Knows jobs only as far as an app and a request.
"""
