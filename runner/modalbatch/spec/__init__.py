"""Text to Spec: a tree of plain data that knows the place of every node. Runs on: laptop.

Owns reading, the schema and the words of its errors. Refuses to look at anything but the text: files, handlers and
Modal's names are `compiler.resolve`'s.
"""

from modalbatch.spec.document import Spec, load_spec
from modalbatch.spec.mark import Mark, Trail

__all__ = ["Mark", "Spec", "Trail", "load_spec"]
