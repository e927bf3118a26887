"""HTTP as registries speak it: tokens and passwords, redirects that do not carry them away, errors in words."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple
from urllib.parse import urlencode, urljoin, urlsplit

from engines import jsonfile
from engines.errors import IncompatibleError, OptimizeError
from engines.text import plain
from optimize.ship.stores.credentials import Login, login
from optimize.version import VERSION

Body = Callable[[], Iterator[bytes]]
"""Gives the blocks of a body, each time from its start."""

_PATIENCE = 60
_LONGEST = 1 << 20
"""Bytes of an answer that is no document or blob."""

_AGAIN = "run the same command again: it goes on where it stopped"
_CHALLENGE = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


class Refused(OptimizeError):
    """The registry answered with an error that the caller may know what to do with."""

    def __init__(self, message: str, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status


class Http:
    """Requests to one registry.

    Args:
        base: Such as `https://registry.example:5000`.
        host: As users write it; logins are kept by it.
        shown: The URL, for messages.
    """

    def __init__(self, base: str, host: str, shown: str) -> None:
        self.base = base
        self.host = host
        self.shown = shown
        self._tokens: Dict[str, str] = {}
        self._login: Optional[Login] = None
        self._asked = False
        self._opener = urllib.request.build_opener()

    def ask(
        self,
        method: str,
        path: str,
        scope: str,
        headers: Optional[Mapping[str, str]] = None,
        body: Optional[Body] = None,
        length: int = 0,
    ) -> http.client.HTTPResponse:
        """Send a request, with a token of the registry's where it wants one.

        Args:
            method: Such as HEAD.
            path: Below the registry, or a whole URL that it gave.
            scope: What a token is for, as `repository:NAME:pull`.
            headers: More headers.
            body: What is sent.
            length: Its bytes.

        Returns:
            The answer; to be closed.

        Raises:
            Refused: The registry says no in a way that has no meaning for every request: see its status.
            IncompatibleError: Credentials are missing, refused or expired, or do not allow this.
            OptimizeError: It cannot be reached, is full, or the connection was lost.
        """
        url = urljoin(self.base, path)
        for again in (False, True):
            try:
                return self._open(self._request(method, url, scope, headers or {}, body, length))
            except urllib.error.HTTPError as error:
                with error:
                    challenge = error.headers.get("WWW-Authenticate", "")
                    text = error.read(_LONGEST).decode("utf-8", "replace") if method != "HEAD" else ""
                if error.code != 401 or again or not self._ours(url) or not self._answer(challenge, scope):
                    raise self._refusal(error.code, text) from None
        raise AssertionError("unreachable")

    def text(self, path: str, scope: str, limit: int, headers: Optional[Mapping[str, str]] = None) -> Tuple[bytes, Any]:
        """Body of a GET, one byte more than `limit` of a longer one, and its headers."""
        with self.ask("GET", path, scope, headers) as answer:
            return self.read(answer, limit + 1), answer.headers

    def read(self, answer: http.client.HTTPResponse, size: int) -> bytes:
        """Of a body.

        Raises:
            OptimizeError: The connection was lost.
        """
        try:
            return answer.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None

    def _request(
        self, method: str, url: str, scope: str, headers: Mapping[str, str], body: Optional[Body], length: int
    ) -> urllib.request.Request:
        data = body() if body else (b"" if method in ("POST", "PUT", "PATCH") else None)
        request = urllib.request.Request(url, data=data, method=method)  # noqa: S310  (HTTP by the base)
        request.add_header("User-Agent", f"optimize/{VERSION}")
        if data is not None:
            request.add_header("Content-Length", str(length))
        for name, value in headers.items():
            request.add_header(name, value)
        if scope in self._tokens and self._ours(url):
            # Not carried along when the registry sends us to where it keeps its blobs.
            request.add_unredirected_header("Authorization", self._tokens[scope])
        return request

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=_PATIENCE)
            return answer
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError as error:
            reason = error.reason
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise IncompatibleError(
                    f"{self.shown}: its certificate is not trusted ({reason.verify_message})",
                    "SSL_CERT_FILE=FILE names the authorities to trust",
                ) from None
            if isinstance(reason, ssl.SSLError):
                raise OptimizeError(
                    f"{self.shown}: no TLS there ({reason.reason})", "oci+http:// is for a registry without it"
                ) from None
            if isinstance(reason, (ConnectionRefusedError, socket.gaierror, socket.timeout)) or "route" in str(reason):
                raise OptimizeError(
                    f"{self.shown}: the registry cannot be reached ({plain(str(reason))})",
                    "check its name, the port and that it is on",
                ) from None
            raise self._lost(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None

    def _lost(self, error: BaseException) -> OptimizeError:
        return OptimizeError(
            f"{self.shown}: the connection was lost ({plain(str(error)) or type(error).__name__})", _AGAIN
        )

    def _ours(self, url: str) -> bool:
        """Whether it is the registry itself, and not where it sends us."""
        return urlsplit(url)[:2] == urlsplit(self.base)[:2]

    def _answer(self, challenge: str, scope: str) -> bool:
        """Get what the registry asks for; whether there is something to try with."""
        if not self._asked:
            self._login, self._asked = login(self.host), True
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and self._login:
            self._tokens[scope] = self._login.basic()
            return True
        fields = dict(_CHALLENGE.findall(rest))
        if kind.lower() != "bearer" or "realm" not in fields:
            return False
        words = {"service": fields.get("service", ""), "scope": fields.get("scope") or scope}
        self._tokens[scope] = "Bearer " + self._token(fields["realm"], words)
        return True

    def _token(self, realm: str, words: Dict[str, str]) -> str:
        """Of the registry's token server, specification `docs/spec/auth/token.md` and `oauth.md` of distribution."""
        if not realm.startswith(("https://", "http://")):  # such as a file of this machine
            raise IncompatibleError(f"{self.shown}: its token server has no address of HTTP")
        if not realm.startswith("https://") and not self.base.startswith("http://"):
            raise IncompatibleError(f"{self.shown}: it wants passwords sent without TLS, which is refused")
        if self._login and not self._login.user:
            more = {"grant_type": "refresh_token", "refresh_token": self._login.secret, "client_id": "optimize"}
            data = urlencode({**words, **more}).encode()
            request = urllib.request.Request(realm, data=data)  # noqa: S310  (HTTP, see above)
        else:
            url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(words)}"
            request = urllib.request.Request(url)  # noqa: S310  (HTTP, see above)
            if self._login:
                request.add_unredirected_header("Authorization", self._login.basic())
        try:
            with self._open(request) as answer:
                value = jsonfile.loads(self.read(answer, _LONGEST).decode("utf-8"))
            token = value.get("token") or value.get("access_token")
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refusal(error.code, "") from None
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise OptimizeError(f"{self.shown}: its token server answers something that is no token")
        return token

    def _refusal(self, status: int, text: str) -> OptimizeError:
        words = _words(text)
        if status == 401:
            if self._login:
                return IncompatibleError(
                    f"{self.shown}: the credentials are refused or have expired", f"docker login {self.host}"
                )
            return IncompatibleError(f"{self.shown}: credentials are missing", f"docker login {self.host}")
        if status == 403:
            return IncompatibleError(f"{self.shown}: no permission there ({words})", f"docker login {self.host}")
        if status == 507 or "no space left" in text.lower() or "quota" in text.lower():
            return OptimizeError(f"{self.shown}: the disk there is full", f"free some space there, then {_AGAIN}")
        if status == 429:
            return OptimizeError(f"{self.shown}: too many requests, says the registry", "try again in some minutes")
        return Refused(f"{self.shown}: the registry answers {status} ({words})", status=status)


def _words(text: str) -> str:
    """Codes and messages of an error body, as the distribution specification has them."""
    try:
        errors = jsonfile.loads(text)["errors"]
        found = "; ".join(f"{error['code']}: {error.get('message', '')}" for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        found = text
    return plain(found)[:200] or "no reason given"
