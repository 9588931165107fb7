"""A boto3 client for one bucket, and what its errors mean. Runs on: both.

Owns credentials (environment, profile, role, anonymous), addressing and retries. Values of secrets come from the
environment by name and go nowhere else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from modalbatch.errors import InputChangedError, ModalbatchError, NotFoundError, UnavailableError, first_line
from modalbatch.stores.named import named_variable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from modalbatch.job import Credentials

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403"}
_MOVED = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301"}
_ABSENT = {"NoSuchKey", "NoSuchVersion", "404"}
_CHANGED = {"PreconditionFailed", "412"}


def make_client(
    endpoint_url: str | None, credentials: Credentials, *, n_tries: int | None = None, timeout_s: float = 60.0
) -> S3Client:
    """A client with standard retries; its session is its own, so that threads never share one.

    `n_tries`: of a request that fails; None: AWS_MAX_ATTEMPTS, else 5. `timeout_s`: how long an answer may stall.

    Raises:
        UnavailableError: boto3 is missing, or the credentials are.
    """
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise UnavailableError("S3 needs boto3", hint="pip install 'modalbatch[s3]'") from None
    config = Config(
        retries={"mode": "standard", "max_attempts": n_tries or _max_attempts()},
        # Stores that are not AWS are often reached by a host without wildcard names.
        s3={"addressing_style": "path" if endpoint_url else "auto"},
        signature_version=UNSIGNED if credentials.anonymous else None,
        # Checksums are given where they are wanted: the trailing CRC32 of newer boto3 is refused by other stores.
        request_checksum_calculation="when_required",
        max_pool_connections=16,
        connect_timeout=10,
        read_timeout=timeout_s,
        tcp_keepalive=True,
        user_agent_extra="modalbatch",
    )
    try:
        session = boto3.Session(profile_name=credentials.profile, **_keys(credentials))
        region = session.region_name or ("us-east-1" if endpoint_url else None)
        if credentials.role_arn:
            session = boto3.Session(
                botocore_session=_assume(session, credentials.role_arn, endpoint_url, region), region_name=region
            )
        return session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise UnavailableError(f"no S3 client: {error}", hint="check `credentials` and `endpoint_url`") from None


def _max_attempts() -> int:
    text = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return int(text) if text.isdecimal() and int(text) else 5


def _keys(credentials: Credentials) -> dict[str, Any]:
    """Keyword arguments of a session, by the names of environment variables in the spec."""
    named = {
        "aws_access_key_id": credentials.access_key_id,
        "aws_secret_access_key": credentials.secret_access_key,
        "aws_session_token": credentials.session_token,
    }
    return {keyword: named_variable(credentials, name) for keyword, name in named.items() if name is not None}


def _assume(session: Any, role_arn: str, endpoint_url: str | None, region: str | None) -> Any:
    """A botocore session whose credentials are a role's, renewed before they expire."""
    import botocore.session
    from botocore import credentials as kinds

    def create_client(service: str, **kwargs: Any) -> Any:
        return session.client(service, **{"endpoint_url": endpoint_url, "region_name": region or "us-east-1", **kwargs})

    extra = {"RoleSessionName": "modalbatch"}
    source = session.get_credentials()
    fetcher: Any
    if source is None and "MODAL_IDENTITY_TOKEN" in os.environ:
        # Modal's own identity, as its bucket mounts use it.
        fetcher = kinds.AssumeRoleWithWebIdentityCredentialFetcher(
            create_client, lambda: os.environ["MODAL_IDENTITY_TOKEN"], role_arn, extra_args=extra
        )
    else:
        fetcher = kinds.AssumeRoleCredentialFetcher(create_client, source, role_arn, extra_args=extra)
    assumed: Any = botocore.session.Session()
    assumed._credentials = kinds.DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    return assumed


def error_code(error: BaseException) -> str:
    """S3's word for a failure (`NoSuchKey`), also inside smart_open's `OSError`; empty where there was no answer."""
    response = getattr(getattr(error, "backend_error", error), "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def error_status(error: BaseException) -> int:
    """The HTTP status of a failure; 0 where there was no answer."""
    response = getattr(getattr(error, "backend_error", error), "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def translate(error: Exception, verb: str, uri: str) -> ModalbatchError:
    """What a person can do about a failed request."""
    code = error_code(error)
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket":
        return UnavailableError(
            f"the bucket `{bucket}` does not exist", hint="create it, or check `uri` and `endpoint_url`"
        )
    if code in _DENIED:
        return UnavailableError(
            f"access denied: cannot {verb} `{uri}` ({code})",
            hint="check the credentials, and that they may list, get, put and delete objects there",
        )
    if code in _MOVED:
        return UnavailableError(
            f"the bucket `{bucket}` lies in another region ({code})", hint="set AWS_REGION, or `endpoint_url`"
        )
    if code in _ABSENT:
        return NotFoundError(f"`{uri}` does not exist")
    if code in _CHANGED:
        return InputChangedError(f"`{uri}` changed after it was listed", hint="run `apply` again")
    if type(error).__name__ == "NoCredentialsError":
        return UnavailableError(
            f"no credentials: cannot {verb} `{uri}`", hint="name them in `credentials`, or set AWS_ACCESS_KEY_ID"
        )
    return UnavailableError(f"cannot {verb} `{uri}`: {first_line(error)}", hint="check the network and `endpoint_url`")
