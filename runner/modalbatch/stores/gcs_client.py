"""A client for one bucket of Google Cloud Storage, and what its errors mean. Runs on: both.

Owns credentials (a service account's key, Google's own chain, anonymous) and retries. Values of secrets come from the
environment by name and go nowhere else.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from modalbatch.errors import InputChangedError, ModalbatchError, NotFoundError, UnavailableError, first_line
from modalbatch.stores.named import named_variable

if TYPE_CHECKING:
    from modalbatch.job import Credentials

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


def make_bucket(name: str, endpoint_url: str | None, credentials: Credentials) -> Any:
    """The bucket, reached by a client of its own.

    Raises:
        UnavailableError: google-cloud-storage is missing, or the credentials are.
    """
    try:
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage import Client
    except ImportError:
        raise UnavailableError(
            "Google Cloud Storage needs google-cloud-storage", hint="pip install 'modalbatch[gcs]'"
        ) from None
    # The client would ask for the bucket's own data in the background, which takes a right that nothing else needs.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    options = {"api_endpoint": endpoint_url} if endpoint_url else None
    try:
        # No project: it decides nothing that is asked of a bucket.
        return Client(project=None, credentials=_credentials(credentials), client_options=options).bucket(name)
    except (GoogleAuthError, ValueError) as error:
        raise UnavailableError(
            f"no credentials for Google Cloud Storage: {error}",
            hint="name them in `credentials`, or set GOOGLE_APPLICATION_CREDENTIALS",
        ) from None


def _credentials(credentials: Credentials) -> Any:
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.oauth2.service_account import Credentials as ServiceAccount

    if credentials.anonymous:
        return AnonymousCredentials()
    if credentials.service_account_json:
        key = json.loads(named_variable(credentials, credentials.service_account_json))
        return ServiceAccount.from_service_account_info(key, scopes=[_SCOPE])
    return google.auth.default(scopes=[_SCOPE])[0]


def error_status(error: BaseException) -> int:
    """The HTTP status of a failure; 0 where there was no answer."""
    return int(getattr(error, "code", None) or 0)


def is_no_bucket(error: BaseException) -> bool:
    """Whether a 404 is the bucket's: only Google's text tells it from an object's."""
    return error_status(error) == 404 and "bucket does not exist" in str(error)


def translate(error: Exception, verb: str, uri: str) -> ModalbatchError:
    """What a person can do about a failed request."""
    status = error_status(error)
    bucket = uri.removeprefix("gs://").partition("/")[0]
    if is_no_bucket(error):
        return UnavailableError(f"the bucket `{bucket}` does not exist", hint="create it, or check `uri`")
    if status in (401, 403):
        return UnavailableError(
            f"access denied: cannot {verb} `{uri}` ({status})",
            hint="check the credentials, and that they may list, get, create and delete objects there",
        )
    if status == 404:
        return NotFoundError(f"`{uri}` does not exist")
    if status in (412, 304):
        return InputChangedError(f"`{uri}` changed after it was listed", hint="run `apply` again")
    kind = type(error)
    if kind.__module__.startswith("google.auth") and kind.__name__ != "TransportError":
        return UnavailableError(
            f"access denied: cannot {verb} `{uri}` ({first_line(error)})",
            hint="check the credentials: the service account and its key",
        )
    text = first_line(error)
    return UnavailableError(f"cannot {verb} `{uri}`: {text}", hint="check the network and `endpoint_url`")
