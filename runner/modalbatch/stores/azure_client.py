"""A client for one container of Azure Blob Storage, and what its errors mean. Runs on: both.

Owns credentials (connection string, account key, SAS, Microsoft Entra, anonymous), the account and retries. Values of
secrets come from the environment by name and go nowhere else.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modalbatch.errors import InputChangedError, ModalbatchError, NotFoundError, UnavailableError, first_line
from modalbatch.stores.named import named_variable

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

    from modalbatch.job import Credentials

#: Larger files go in blocks of this size; smaller ones are in memory while they are sent.
BLOCK_BYTES = 8 << 20
#: Tries of a request after the first: after 2, 4 and 8 seconds, a second more or less.
_N_RETRIES = 3

_NO_CONTAINER = {"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"}
_DENIED = {
    "AuthenticationFailed", "AuthorizationFailure", "AuthorizationPermissionMismatch", "AuthorizationProtocolMismatch",
    "AuthorizationResourceTypeMismatch", "AuthorizationServiceMismatch", "AuthorizationSourceIPMismatch",
    "AuthorizationSourceIpMismatch", "InsufficientAccountPermissions", "InvalidAuthenticationInfo",
    "NoAuthenticationInformation", "PublicAccessNotPermitted", "AccountIsDisabled",
    "KeyBasedAuthenticationNotPermitted",
}  # fmt: skip


def make_client(
    container: str,
    endpoint_url: str | None,
    credentials: Credentials,
    *,
    pause: Callable[[float], None],
    timeout_s: float = 60.0,
) -> ContainerClient:
    """A client whose failed requests are repeated with growing pauses. `timeout_s`: how long an answer may stall.

    Raises:
        UnavailableError: azure-storage-blob is missing, or the account, or a named variable.
    """
    try:
        from azure.core.exceptions import ClientAuthenticationError
        from azure.storage.blob import ContainerClient, ExponentialRetry
    except ImportError:
        raise UnavailableError("Azure needs azure-storage-blob", hint="pip install 'modalbatch[azure]'") from None

    class Retry(ExponentialRetry):
        """Waits between two tries as the store is told to, and tries nothing again that has no credentials."""

        def increment(self, settings: dict[str, Any], request: Any, response: Any = None, error: Any = None) -> bool:
            is_denied = isinstance(error, ClientAuthenticationError)
            return not is_denied and super().increment(settings, request, response, error)

        def sleep(self, settings: dict[str, Any], transport: Any) -> None:
            pause(self.get_backoff_time(settings))

    options: dict[str, Any] = {
        "retry_policy": Retry(initial_backoff=0, increment_base=2, retry_total=_N_RETRIES, random_jitter_range=1),
        "connection_timeout": 10,
        "read_timeout": timeout_s,
        "max_single_put_size": BLOCK_BYTES,
        "max_block_size": BLOCK_BYTES,
        "user_agent": "modalbatch",
    }
    try:
        connection = _connection_string(endpoint_url, credentials)
        if connection:
            return ContainerClient.from_connection_string(connection, container, **options)
        url = endpoint_url or _account_url()
        return ContainerClient(url, container, credential=_credential(credentials), **options)
    except ValueError as error:
        raise UnavailableError(f"no Azure client: {error}", hint="check `credentials` and `endpoint_url`") from None


def _connection_string(endpoint_url: str | None, credentials: Credentials) -> str | None:
    if credentials.connection_string:
        return named_variable(credentials, credentials.connection_string)
    has_another = endpoint_url or credentials.anonymous or credentials.account_key or credentials.sas_token
    return None if has_another else os.environ.get("AZURE_STORAGE_CONNECTION_STRING")


def _account_url() -> str:
    account = os.environ.get("AZURE_STORAGE_ACCOUNT")
    if not account:
        raise UnavailableError(
            "the account of `az://` is not known",
            hint="set `endpoint_url: https://ACCOUNT.blob.core.windows.net`, or AZURE_STORAGE_ACCOUNT",
        )
    return f"https://{account}.blob.core.windows.net"


def _credential(credentials: Credentials) -> Any:
    """What signs the requests: what the spec names, else the variables of Azure's command line, else Entra's chain."""
    from azure.core.credentials import AzureSasCredential

    if credentials.anonymous:
        return None
    if credentials.account_key:
        return named_variable(credentials, credentials.account_key)
    if credentials.sas_token:
        return AzureSasCredential(named_variable(credentials, credentials.sas_token).lstrip("?"))
    if key := os.environ.get("AZURE_STORAGE_KEY"):
        return key
    if token := os.environ.get("AZURE_STORAGE_SAS_TOKEN"):
        return AzureSasCredential(token.lstrip("?"))
    from azure.identity import DefaultAzureCredential

    # Twenty lines about every way that did not lead to credentials; what to do stands in our error.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    return DefaultAzureCredential()


def error_code(error: BaseException) -> str:
    """Azure's word for a failure (`BlobNotFound`); empty where there was no answer."""
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))


def error_status(error: BaseException) -> int:
    """The HTTP status of a failure; 0 where there was no answer."""
    return int(getattr(error, "status_code", None) or 0)


def translate(error: Exception, verb: str, uri: str) -> ModalbatchError:
    """What a person can do about a failed request."""
    code, status = error_code(error), error_status(error)
    container = uri.removeprefix("az://").partition("/")[0]
    if code in _NO_CONTAINER:
        return UnavailableError(
            f"the container `{container}` does not exist ({code})", hint="create it, or check `uri` and the account"
        )
    if code in _DENIED or status in (401, 403):
        return UnavailableError(
            f"access denied: cannot {verb} `{uri}` ({code or status})",
            hint="check the credentials, and that they may list, read, write and delete blobs there",
        )
    if status == 404:
        return NotFoundError(f"`{uri}` does not exist")
    if status == 412:
        return InputChangedError(f"`{uri}` changed after it was listed", hint="run `apply` again")
    if type(error).__name__ in ("ClientAuthenticationError", "CredentialUnavailableError"):
        return UnavailableError(
            f"no credentials: cannot {verb} `{uri}`",
            hint="name them in `credentials`, or set AZURE_STORAGE_CONNECTION_STRING",
        )
    return UnavailableError(f"cannot {verb} `{uri}`: {_text(error)}", hint="check the network and `endpoint_url`")


def _text(error: Exception) -> str:
    """Azure's messages go on with request ids and times."""
    code, line = error_code(error), first_line(error)
    return f"{line} ({code})" if code and code not in line else line
