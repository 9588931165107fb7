"""RPCs about proxy tokens, as `modal workspace proxy-tokens` asks for them. Runs on: laptop.

Owns the translation only; the tokens are a file of the home. Refuses to tie tokens to environments by not answering.
"""

from __future__ import annotations

from modalbatch.engines.local.engine import Engine
from modalbatch.engines.local.web.token import ProxyToken
from modalbatch.engines.local.wire import Message, Peer, message, not_found, proto


class TokenService:
    """Proxy tokens: make, list, rename, remove."""

    def __init__(self, engine: Engine) -> None:
        self._tokens = engine.web.tokens

    async def WorkspaceNameLookup(self, request: Message, peer: Peer) -> Message:
        """This machine's home is the workspace."""
        return message(proto.WorkspaceNameLookupResponse, workspace_name="local", username="local")

    async def WebhookTokenCreate(self, request: Message, peer: Peer) -> Message:
        """A new token."""
        token = self._tokens.create(getattr(request, "name", ""))
        return proto.TokenCreateResponse(token_id=token.key, token_secret=token.secret)

    async def WebhookTokenList(self, request: Message, peer: Peer) -> Message:
        """Every token; each one opens every environment."""
        tokens = [_shown(token) for token in self._tokens.all()]
        return proto.WebhookTokenListResponse(tokens=tokens)

    WebhookTokenListForEnvironment = WebhookTokenList

    async def WebhookTokenUpdate(self, request: Message, peer: Peer) -> Message:
        """Renames a token."""
        token = self._tokens.rename(request.token_id, request.name)
        if token is None:
            raise not_found(f"there is no proxy token {request.token_id}")
        return _shown(token)

    async def WebhookTokenDelete(self, request: Message, peer: Peer) -> None:
        """Removes a token."""
        if not self._tokens.delete(request.token_id):
            raise not_found(f"there is no proxy token {request.token_id}")


def _shown(token: ProxyToken) -> Message:
    return message(proto.WebhookToken, token_id=token.key, created_at=token.created_at, name=token.name)
