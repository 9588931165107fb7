"""What one attempt lets others know, and hears from them, while it works. Runs on: container.

Owns when: an attempt that is soon over leaves no trace and asks nothing.
"""

from __future__ import annotations

import threading
import time

from modalbatch.errors import ModalbatchError
from modalbatch.records import SUSPECT_ENTRIES, Split
from modalbatch.sinks.notes import Entries, is_to_divide
from modalbatch.sinks.objects import ObjectSink

#: Seconds before an attempt notes that it has begun.
ENTER_S = 0.2
#: Seconds before an attempt asks whether others wait for it, and between two looks.
LOOK_AFTER_S = LOOK_EVERY_S = 2.0


class Signs:
    """Of one attempt. Errors of the sink are no errors here: hints may be missed."""

    def __init__(self, sink: ObjectSink, split: Split, attempt: str) -> None:
        self._sink, self._split, self._attempt = sink, split, attempt
        self._entries = Entries(sink, split.run_id, split.id, split.generation)
        self._began = self._looked = time.monotonic()
        self._has_entered = False
        self._entering: threading.Thread | None = None
        #: Entries of others, so far as seen.
        self.n_others = 0
        self.was_asked = False

    @property
    def is_suspect(self) -> bool:
        """Whether too many attempts of this split, or of what it is a part of, never ended."""
        return self.n_others + int(self._split.suspects.get("entries", 0)) >= SUSPECT_ENTRIES

    def begin(self) -> None:
        """A split that is suspected already notes its entry before anything else happens."""
        if self._split.suspects.get("entries"):
            self._has_entered = True
            self._enter()

    def look(self) -> None:
        """What is due now; called a few times a second at most."""
        now = time.monotonic()
        if not self._has_entered and now - self._began >= ENTER_S:
            self._has_entered = True
            # In a thread: the slot's end must be seen at once.
            self._entering = threading.Thread(target=self._enter, name="modalbatch-entry", daemon=True)
            self._entering.start()
        if not self.was_asked and now - self._began >= LOOK_AFTER_S and now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            try:
                self.was_asked = is_to_divide(self._sink, self._split.run_id, self._split.id)
            except (ModalbatchError, OSError):
                return

    def end(self) -> None:
        """The attempt ends in order, whatever came of it."""
        if not self._has_entered:
            return
        if self._entering:
            self._entering.join()
        try:
            self._entries.leave(self._attempt)
        except (ModalbatchError, OSError):
            return

    def _enter(self) -> None:
        try:
            self.n_others = self._entries.enter(self._attempt)
        except (ModalbatchError, OSError):
            return
