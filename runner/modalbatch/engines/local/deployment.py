"""What an app consists of, in the version in force and in earlier ones. Runs on: laptop.

Owns the last few versions of every deployed app, in the store: a caller that names one gets functions of that version,
in containers of their own, which call each other in that version too; a rollback puts one into force again.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from modalbatch.engines.local.function import App
from modalbatch.engines.local.wire import Message, message, not_found, proto

if TYPE_CHECKING:
    from modalbatch.engines.local.engine import Engine

#: Versions that are kept of an app, with the one in force: Modal's smallest plan rolls back by three.
_KEPT = 4


class Deployments:
    """The versions of all apps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, app: App, **facts: Any) -> None:
        """Keeps what is in force now as the app's newest version; `facts` as `AppDeploymentHistory` has them."""
        store = self._engine.store
        kept = {
            "version": app.version,
            "deployed_at": app.deployed_at,
            "function_ids": app.function_ids,
            "class_ids": app.class_ids,
            **facts,
        }
        for function_id in app.function_ids.values():
            definition = self._engine.function(function_id).saved()
            store.put("definition", f"{app.id}/{app.version}/{function_id}", definition)
        store.put("deployment", f"{app.id}/{app.version}", json.dumps(kept).encode())
        self._drop(app, app.version - _KEPT)

    def forget(self, app: App) -> None:
        """Drops every version: the app has stopped."""
        for version in range(1, app.version + 1):
            self._drop(app, version)

    def history(self, app: App) -> list[Message]:
        """What is kept, newest first."""
        versions = [self._find(app, version) for version in range(app.version, max(0, app.version - _KEPT), -1)]
        return [
            message(
                proto.AppDeploymentHistory,
                app_id=app.id,
                deployed_by="you",
                rollback_allowed=True,
                **{name: value for name, value in kept.items() if not name.endswith("_ids")},
            )
            for kept in versions
            if kept is not None
        ]

    def ids(self, app: App, version: int) -> tuple[dict[str, str], dict[str, str]]:
        """Functions and classes of a version by name; a version that is not in force gets functions of its own.

        Raises: NOT_FOUND.
        """
        if version in (0, app.version):
            return app.function_ids, app.class_ids
        kept = self._version(app, version)
        pinned = {}
        for name, function_id in kept["function_ids"].items():
            pinned[name] = _pinned_id(app, version, function_id)
            if self._engine.find_function(pinned[name]) is None:
                request = self._definition(app, version, function_id)
                self._engine.add_function(app, request.function, pinned[name], version=version)
        return pinned, kept["class_ids"]

    def layout(self, app: App, version: int = 0) -> Message:
        """Ids and metadata of everything that an app's code refers to, in a version or in the one in force."""
        function_ids, class_ids = self.ids(app, version)
        object_ids = set(function_ids.values()) | set(class_ids.values())
        for function_id in function_ids.values():
            object_ids |= {item.object_id for item in self._engine.function(function_id).definition.object_dependencies}
        objects = [self._describe(object_id) for object_id in sorted(object_ids)]
        return proto.AppLayout(function_ids=function_ids, class_ids=class_ids, objects=objects)

    def _describe(self, object_id: str) -> Message:
        described = proto.Object(object_id=object_id)
        kind = object_id[:2]
        if kind == "fu" and (function := self._engine.find_function(object_id)):
            described.function_handle_metadata.CopyFrom(function.handle())
        elif kind == "cs":
            described.class_handle_metadata.SetInParent()
        elif kind == "mo":
            described.mount_handle_metadata.content_checksum_sha256_hex = object_id
        elif kind == "vo":
            described.volume_metadata.CopyFrom(self._engine.volumes.metadata(object_id))
        return described

    def load(self, app: App) -> None:
        """Takes up every version that is kept: an earlier engine may have left calls of it open."""
        for version in range(max(1, app.version - _KEPT + 1), app.version):
            if self._find(app, version) is not None:
                self.ids(app, version)

    def roll_back(self, app: App, version: int) -> None:
        """Puts a version's functions into force, as the next publication does. Raises: NOT_FOUND."""
        kept = self._version(app, version)
        for function_id in kept["function_ids"].values():
            definition = self._definition(app, version, function_id).function
            function = self._engine.find_function(function_id)
            if function is None:
                function = self._engine.add_function(app, definition, function_id)
            self._engine.web.open(function, definition)
            function.stage(definition)
        app.function_ids, app.class_ids = kept["function_ids"], kept["class_ids"]

    def _version(self, app: App, version: int) -> dict[str, Any]:
        kept = self._find(app, version)
        if kept is None:
            oldest = max(1, app.version - _KEPT + 1)
            raise not_found(f"version {version} of app `{app.name}` is not kept here, only {oldest} to {app.version}")
        return kept

    def _find(self, app: App, version: int) -> dict[str, Any] | None:
        data = self._engine.store.find("deployment", f"{app.id}/{version}")
        return json.loads(data) if data else None

    def _definition(self, app: App, version: int, function_id: str) -> Message:
        data = self._engine.store.find("definition", f"{app.id}/{version}/{function_id}")
        return proto.FunctionCreateRequest.FromString(data)

    def _drop(self, app: App, version: int) -> None:
        kept = self._find(app, version)
        if kept is None:
            return
        for function_id in kept["function_ids"].values():
            self._engine.store.drop(f"{app.id}/{version}/{function_id}")
            self._engine.drop_function(_pinned_id(app, version, function_id))
        self._engine.store.drop(f"{app.id}/{version}")


def _pinned_id(app: App, version: int, function_id: str) -> str:
    """The same id whenever the same version is asked for, so that calls of an earlier engine find it."""
    digest = hashlib.sha256(f"{app.id}/{version}/{function_id}".encode()).hexdigest()
    return f"fu-{digest[:22]}"
