"""What an S3 server and its client say, and what it means here. Credentials are in none of it."""

from __future__ import annotations

import contextlib
from typing import Iterator, NamedTuple, Type

from engines.errors import IncompatibleError, OptimizeError, UsageError
from engines.text import plain

_AGAIN = "run the same command again: it goes on where it stopped"
_LOGIN = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; to try them: aws sts get-caller-identity"


class _Meaning(NamedTuple):
    names: str
    error: Type[OptimizeError]
    message: str
    hint: str


_MEANINGS = (
    _Meaning("NoSuchBucket", UsageError, "there is no such bucket", "aws s3 ls shows yours, aws s3 mb makes one"),
    _Meaning("InvalidBucketName ParamValidationError", UsageError, "no name of a bucket", "s3://BUCKET/PREFIX"),
    _Meaning(
        "ExpiredToken ExpiredTokenException TokenRefreshRequired RequestExpired UnauthorizedSSOTokenError",
        IncompatibleError,
        "the credentials have expired",
        "aws sso login, or new ones in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
    ),
    _Meaning(
        "RequestTimeTooSkewed",
        IncompatibleError,
        "this machine's clock is not the server's",
        "date -u shows it; timedatectl set-ntp true sets it",
    ),
    _Meaning(
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken InvalidClientTokenId AuthFailure",
        IncompatibleError,
        "the credentials are refused",
        _LOGIN,
    ),
    _Meaning(
        "NoCredentialsError PartialCredentialsError CredentialRetrievalError TokenRetrievalError SSOTokenLoadError "
        "ProfileNotFound NoAuthTokenError",
        IncompatibleError,
        "credentials are missing",
        _LOGIN,
    ),
    _Meaning(
        "AccessDenied AllAccessDisabled AccountProblem 403",
        IncompatibleError,
        "no permission there",
        "s3:GetObject, s3:PutObject, s3:ListBucket, s3:ListBucketMultipartUploads and their like are needed",
    ),
    _Meaning(
        "QuotaExceeded InsufficientStorage XMinioStorageFull XMinioAdminBucketQuotaExceeded 507",
        OptimizeError,
        "the bucket is full",
        f"free some space there, then {_AGAIN}",
    ),
    _Meaning(
        "EndpointConnectionError ConnectTimeoutError ProxyConnectionError SSLError InvalidEndpointBlock",
        OptimizeError,
        "the server cannot be reached",
        "check the network and AWS_ENDPOINT_URL",
    ),
    _Meaning(
        "ConnectionClosedError ReadTimeoutError ResponseStreamingError IncompleteReadError HTTPClientError "
        "ProtocolError",
        OptimizeError,
        "the connection was lost",
        _AGAIN,
    ),
)
"""By S3's error code, or the name of an exception of botocore or urllib3."""


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Tell what the client raises as an error of ours.

    Raises:
        IncompatibleError: boto3 is missing, credentials are missing, refused or expired, or do not allow this.
        UsageError: No such bucket.
        OptimizeError: Anything else.
    """
    try:
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError
    except ImportError:
        raise IncompatibleError("s3:// needs the package boto3", "pip install 'optimize-trt[s3]'") from None
    try:
        yield
    except ClientError as error:
        found = error.response.get("Error", {})
        raise refusal(url, str(found.get("Code", "")), str(found.get("Message", ""))) from None
    except (BotoCoreError, HTTPError) as error:
        raise refusal(url, type(error).__name__, str(error)) from None


def refusal(url: str, name: str, text: str) -> OptimizeError:
    """The error for a code or exception.

    Args:
        url: Of the store.
        name: S3's error code, or the name of an exception.
        text: What it says; shown only where the code is not known, cut short.
    """
    for names, error, message, hint in _MEANINGS:
        if name in names.split():
            return error(f"{url}: {message} ({name})", hint)
    return OptimizeError(f"{url}: {name}: {plain(text)[:200]}")
