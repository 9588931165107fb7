"""RPCs about secrets, dicts and queues: small objects with names. Runs on: laptop.

Owns the rule of names shared by all of Modal's objects (`get_or_create`). What has no name
ends with the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable

from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.name import check_environment, check_name
from modalbatch.engines.local.services.app import DEFAULT_ENVIRONMENT, Send
from modalbatch.engines.local.storage.secret import named_secret
from modalbatch.engines.local.store import Store
from modalbatch.engines.local.wire import (
    LONG_POLL_S,
    Message,
    Peer,
    already_exists,
    creation,
    message,
    mint_id,
    not_found,
    proto,
    refused,
)

#: (number, value) of items of a queue.
Items = list[tuple[int, bytes]]
#: Items of a queue that a listing counts at most, unless it says.
_MAX_SHOWN = 1_000_000
_NAMELESS = (proto.OBJECT_CREATION_TYPE_EPHEMERAL, proto.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP)


def get_or_create(store: Store, kind: str, prefix: str, request: Message, create: Callable[[str, bool], None]) -> str:
    """The id of an object under the request's name and creation type; `create` gets (id, whether it has a name).

    Raises: NOT_FOUND, ALREADY_EXISTS.
    """
    how = request.object_creation_type
    if how in _NAMELESS:
        object_id = mint_id(prefix)
        create(object_id, False)
        return object_id
    environment, name = request.environment_name or DEFAULT_ENVIRONMENT, request.deployment_name
    check_environment(environment)
    check_name(kind, name)
    known = store.resolve(kind, environment, name)
    if known is not None:
        if how == proto.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise already_exists(f"{kind} `{name}` already exists in environment `{environment}`")
        if how == proto.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
            create(known, True)
        return known
    if how == proto.OBJECT_CREATION_TYPE_UNSPECIFIED:
        raise not_found(f"{kind} `{name}` not found in environment `{environment}`")
    object_id = mint_id(prefix)
    create(object_id, True)
    store.bind(kind, environment, name, object_id)
    return object_id


def named_objects(store: Store, kind: str, request: Message) -> list[tuple[str, str, float]]:
    """One page of a listing as (name, id, unix time of creation)."""
    page = request.pagination
    rows = store.names(kind, request.environment_name or DEFAULT_ENVIRONMENT)
    return [row for row in rows if not page.created_before or row[2] < page.created_before][: page.max_objects or None]


class SecretService:
    """Secrets: of an app's own values, or by name from this machine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def SecretGetOrCreate(self, request: Message, peer: Peer) -> Message:
        """A secret's id; a named one is read anew each time, so an edited file counts at once."""
        store, config = self._engine.store, self._engine.config

        def create(secret_id: str, named: bool) -> None:
            self._keep(secret_id, dict(request.env_dict), named)

        if request.object_creation_type == proto.OBJECT_CREATION_TYPE_UNSPECIFIED:
            environment = request.environment_name or DEFAULT_ENVIRONMENT
            check_name("secret", request.deployment_name)
            secret_id = store.resolve("secret", environment, request.deployment_name)
            if secret_id is None:
                folder = config.home / "secrets"
                values = named_secret(folder, request.deployment_name, request.required_keys, self._engine.environ)
                secret_id = mint_id("st")
                self._keep(secret_id, values, False)
        else:
            secret_id = get_or_create(store, "secret", "st", request, create)
        metadata = self._metadata(secret_id, request.deployment_name, request.environment_name)
        return message(proto.SecretGetOrCreateResponse, secret_id=secret_id, metadata=metadata)

    def _metadata(self, secret_id: str, name: str, environment: str) -> Message:
        return message(
            proto.SecretMetadata,
            name=name,
            keys=sorted(self._engine.secret(secret_id)),
            environment_name=environment or DEFAULT_ENVIRONMENT,
            creation_info=creation(self._engine.store.created_at(secret_id)),
        )

    async def SecretList(self, request: Message, peer: Peer) -> Message:
        """The secrets that were made by name; not those in files, which belong to the user."""
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        items = [
            message(
                proto.SecretListItem,
                label=name,
                secret_id=secret_id,
                created_at=created_at,
                environment_name=environment,
                metadata=self._metadata(secret_id, name, environment),
            )
            for name, secret_id, created_at in named_objects(self._engine.store, "secret", request)
        ]
        return message(proto.SecretListResponse, items=items, environment_name=environment)

    async def SecretDelete(self, request: Message, peer: Peer) -> None:
        """Removes a secret that was made by name."""
        if not self._engine.store.has_name(request.secret_id):
            raise refused(f"a secret in a file is yours to remove\nhint: see {self._engine.config.home / 'secrets'}")
        self._engine.store.drop(request.secret_id)

    def _keep(self, secret_id: str, values: dict[str, str], named: bool) -> None:
        self._engine.secrets[secret_id] = values
        self._engine.store.put("secret", secret_id, json.dumps(values).encode())


class DictService:
    """`modal.Dict`."""

    def __init__(self, engine: Engine) -> None:
        self._store = engine.store
        self._store.drop_nameless("dict")

    async def DictGetOrCreate(self, request: Message, peer: Peer) -> Message:
        """A dict by name, or a nameless one."""

        def create(dict_id: str, named: bool) -> None:
            self._store.put("dict", dict_id, request.deployment_name.encode() if named else b"")
            for item in request.data:
                self._store.set_entry(dict_id, item.key, item.value)

        dict_id = get_or_create(self._store, "dict", "di", request, create)
        return message(proto.DictGetOrCreateResponse, dict_id=dict_id, metadata=self._metadata(dict_id))

    def _metadata(self, dict_id: str) -> Message:
        name = self._store.find("dict", dict_id)
        if name is None:
            raise not_found(f"dict {dict_id} is not known here")
        return message(proto.DictMetadata, name=name.decode(), creation_info=creation(self._store.created_at(dict_id)))

    async def DictGetById(self, request: Message, peer: Peer) -> Message:
        """A dict by id."""
        return message(proto.DictGetByIdResponse, dict_id=request.dict_id, metadata=self._metadata(request.dict_id))

    async def DictHeartbeat(self, request: Message, peer: Peer) -> None:
        """A nameless dict lives as long as the engine."""

    async def DictList(self, request: Message, peer: Peer) -> Message:
        """The named dicts of an environment."""
        infos = [
            message(
                proto.DictListResponse.DictInfo,
                name=name,
                dict_id=dict_id,
                created_at=created_at,
                metadata=self._metadata(dict_id),
            )
            for name, dict_id, created_at in named_objects(self._store, "dict", request)
        ]
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        return message(proto.DictListResponse, dicts=infos, environment_name=environment)

    async def DictDelete(self, request: Message, peer: Peer) -> None:
        """Removes a dict with its entries."""
        self._store.drop(request.dict_id)

    async def DictUpdate(self, request: Message, peer: Peer) -> Message:
        """Writes entries; with `if_not_exists` existing ones stay, and the answer says so."""
        written = [
            self._store.set_entry(request.dict_id, item.key, item.value, keep=request.if_not_exists)
            for item in request.updates
        ]
        return message(proto.DictUpdateResponse, created=all(written))

    async def DictGet(self, request: Message, peer: Peer) -> Message:
        """One entry."""
        value = self._store.entry(request.dict_id, request.key)
        return proto.DictGetResponse(found=value is not None, value=value)

    async def DictPop(self, request: Message, peer: Peer) -> Message:
        """Takes one entry out."""
        value = self._store.entry(request.dict_id, request.key)
        self._store.drop_entries(request.dict_id, request.key)
        return proto.DictPopResponse(found=value is not None, value=value)

    async def DictContains(self, request: Message, peer: Peer) -> Message:
        """Whether there is an entry."""
        return proto.DictContainsResponse(found=self._store.entry(request.dict_id, request.key) is not None)

    async def DictLen(self, request: Message, peer: Peer) -> Message:
        """How many entries there are."""
        return proto.DictLenResponse(len=self._store.n_entries(request.dict_id))

    async def DictClear(self, request: Message, peer: Peer) -> None:
        """Removes every entry."""
        self._store.drop_entries(request.dict_id)

    async def DictContents(self, request: Message, peer: Peer, send: Send) -> None:
        """Streams the entries."""
        for key, value in list(self._store.entries(request.dict_id)):
            await send(proto.DictEntry(key=key if request.keys else b"", value=value if request.values else b""))


class QueueService:
    """`modal.Queue`."""

    def __init__(self, engine: Engine) -> None:
        self._store = engine.store
        self._store.drop_nameless("queue")
        self._changed = asyncio.Event()

    async def QueueGetOrCreate(self, request: Message, peer: Peer) -> Message:
        """A queue by name, or a nameless one."""

        def create(queue_id: str, named: bool) -> None:
            self._store.put("queue", queue_id, request.deployment_name.encode() if named else b"")

        queue_id = get_or_create(self._store, "queue", "qu", request, create)
        return message(proto.QueueGetOrCreateResponse, queue_id=queue_id, metadata=self._metadata(queue_id))

    def _metadata(self, queue_id: str) -> Message:
        name = self._store.find("queue", queue_id)
        if name is None:
            raise not_found(f"queue {queue_id} is not known here")
        return message(
            proto.QueueMetadata, name=name.decode(), creation_info=creation(self._store.created_at(queue_id))
        )

    async def QueueGetById(self, request: Message, peer: Peer) -> Message:
        """A queue by id."""
        return message(proto.QueueGetByIdResponse, queue_id=request.queue_id, metadata=self._metadata(request.queue_id))

    async def QueueList(self, request: Message, peer: Peer) -> Message:
        """The named queues of an environment."""
        infos = [
            message(
                proto.QueueListResponse.QueueInfo,
                name=name,
                queue_id=queue_id,
                created_at=created_at,
                num_partitions=self._store.n_partitions(queue_id),
                total_size=min(self._store.n_items(queue_id), request.total_size_limit or _MAX_SHOWN),
                metadata=self._metadata(queue_id),
            )
            for name, queue_id, created_at in named_objects(self._store, "queue", request)
        ]
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        return message(proto.QueueListResponse, queues=infos, environment_name=environment)

    async def QueueHeartbeat(self, request: Message, peer: Peer) -> None:
        """A nameless queue lives as long as the engine."""

    async def QueueDelete(self, request: Message, peer: Peer) -> None:
        """Removes a queue."""
        self._store.drop(request.queue_id)

    async def QueuePut(self, request: Message, peer: Peer) -> None:
        """Adds items."""
        self._store.add_items(request.queue_id, request.partition_key, request.values)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _items(self, request: Message, limit_s: float, *, after: int = 0, limit: int = -1) -> Items:
        """Items of the request's partition, as soon as there are any; empty after `limit_s`."""
        end = time.monotonic() + min(limit_s, LONG_POLL_S)
        while True:
            items = self._store.items(request.queue_id, request.partition_key, after, limit)
            left_s = end - time.monotonic()
            if items or left_s <= 0:
                return items
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left_s)

    async def QueueGet(self, request: Message, peer: Peer) -> Message:
        """Takes items out, waiting for the first."""
        items = await self._items(request, request.timeout, limit=max(1, request.n_values))
        if items:
            self._store.drop_items(request.queue_id, request.partition_key, last=items[-1][0])
        return proto.QueueGetResponse(values=[value for _, value in items])

    async def QueueLen(self, request: Message, peer: Peer) -> Message:
        """How many items there are, in a partition or in all."""
        part = None if request.total else request.partition_key
        return proto.QueueLenResponse(len=self._store.n_items(request.queue_id, part))

    async def QueueClear(self, request: Message, peer: Peer) -> None:
        """Removes the items of a partition, or all."""
        self._store.drop_items(request.queue_id, None if request.all_partitions else request.partition_key)

    async def QueueNextItems(self, request: Message, peer: Peer) -> Message:
        """Items after an entry, without taking them."""
        items = await self._items(request, request.item_poll_timeout, after=int(request.last_entry_id or 0))
        found = [proto.QueueItem(value=value, entry_id=str(number)) for number, value in items]
        return proto.QueueNextItemsResponse(items=found)
