"""An archive in S3, Google Cloud Storage or Azure Blob Storage, or what speaks their protocols: by `obstore`.

Credentials are the platform's (docs/scale.md): web identity tokens, a metadata server, files that are mounted.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from .bucket import Blocks, BucketError, Object

__all__ = ["Store"]

# Up to so much is put in one request, which the server refuses where the name is taken; more goes in parts.
SINGLE_BYTES_MAX = 32 << 20
PART_BYTES = 16 << 20

_CONTENT_TYPE = "application/zstd"
# The client tries again within one call for so long; the caller does for ever.
_RETRY = {
    "max_retries": 3,
    "retry_timeout": dt.timedelta(seconds=30),
    "backoff": {"init_backoff": dt.timedelta(milliseconds=100), "max_backoff": dt.timedelta(seconds=5), "base": 2},
}
# An endpoint of one's own may be plain HTTP where its URL says so; those of the clouds never are.
_CLIENT = {"connect_timeout": dt.timedelta(seconds=5), "timeout": dt.timedelta(seconds=60), "allow_http": True}
# A bucket with Object Lock takes nothing without a checksum.
_CONFIG = {"s3": {"checksum_algorithm": "SHA256"}}


class Store:
    """A `bucket.Bucket`."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import obstore  # noqa: PLC0415 - only where there is an archive
            from obstore import exceptions, store  # noqa: PLC0415 - as above
        except ImportError:
            hint = "pip install '.[archive]' in the clone; the image and requirements.txt have it"
            text = f"{urlsplit(url).scheme}:// needs what is not installed (obstore)"
            raise BucketError(text, hint, lasting=True) from None
        self._obstore, self._errors = obstore, exceptions
        scheme = urlsplit(url).scheme
        kinds: dict[str, Any] = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}
        try:
            self._store: Any = kinds[scheme].from_url(
                url, config=_CONFIG.get(scheme), client_options=_CLIENT, retry_config=_RETRY
            )
        except Exception as error:  # noqa: BLE001 - Rust's; whatever is wrong with the URL or the environment
            raise self._failed(error, "") from None

    def put(self, name: str, blocks: Blocks, metadata: dict[str, str]) -> bool:
        """Store an object; see `bucket.Bucket`."""
        attributes = {"Content-Type": _CONTENT_TYPE, **metadata}
        held = bytearray()
        following = blocks()
        for block in following:
            held += block
            if len(held) > SINGLE_BYTES_MAX:
                return self._put_parts(name, bytes(held), following, attributes)
        try:
            self._obstore.put(self._store, name, bytes(held), mode="create", attributes=attributes, use_multipart=False)
        except self._errors.AlreadyExistsError:
            return False
        except self._errors.PermissionDeniedError as error:
            # Google: where the name is taken, who may not delete may not put, whatever the condition.
            if self._is_there(name):
                return False
            raise self._failed(error, name) from None
        except Exception as error:  # noqa: BLE001 - as above
            raise self._failed(error, name) from None
        return True

    def read(self, name: str) -> Iterator[bytes]:
        """Yield what an object holds."""
        try:
            for block in self._obstore.get(self._store, name).stream(min_chunk_size=1 << 20):
                yield bytes(block)
        except Exception as error:  # noqa: BLE001 - as above
            raise self._failed(error, name) from None

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the directories right below a prefix."""
        try:
            found = self._obstore.list_with_delimiter(self._store, prefix or None)["common_prefixes"]
        except Exception as error:  # noqa: BLE001 - as above
            raise self._failed(error, prefix) from None
        yield from (one.rstrip("/").rpartition("/")[2] for one in found)

    def objects(self, prefix: str) -> Iterator[Object]:
        """Yield the objects below a prefix."""
        try:
            for some in self._obstore.list(self._store, prefix or None, chunk_size=1000):
                for one in some:
                    yield Object(one["path"], one["size"])
        except Exception as error:  # noqa: BLE001 - as above
            raise self._failed(error, prefix) from None

    def _put_parts(self, name: str, first: bytes, following: Iterator[bytes], attributes: dict[str, str]) -> bool:
        """Store a large object in parts: it is there when the last request has said so, and not before.

        Its name cannot be claimed in that request; nobody else has it, and who had it was us, with the same records.
        """
        if self._is_there(name):
            return False

        def everything() -> Iterator[bytes]:
            yield first
            yield from following

        try:
            self._obstore.put(
                self._store,
                name,
                everything(),
                attributes=attributes,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=2,
            )
        except Exception as error:  # noqa: BLE001 - as above
            raise self._failed(error, name) from None
        return True

    def _is_there(self, name: str) -> bool:
        """Return whether an object is there. To who may not list, one that is not is "not permitted" (S3, Google)."""
        try:
            self._obstore.head(self._store, name)
        except (FileNotFoundError, self._errors.PermissionDeniedError):
            return False
        except Exception as error:  # noqa: BLE001 - as above
            raise self._failed(error, name) from None
        return True

    def _failed(self, error: Exception, name: str) -> BucketError:
        """Return the error in our words, without what a server may have echoed of our credentials."""
        where = f"{self.url}/{name}" if name else self.url
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):  # of what is read for a put
            return BucketError(f"{where}: {error.strerror or error}", "check the volume of the journal")
        text = _first_line(str(error))
        status = re.search(r"status(?: code)?:? (\d{3})|\b([45]\d\d) [A-Z]", str(error))
        code = (status[1] or status[2]) if status else ""
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            return BucketError(f"{where}: the bucket is not there", _HINT_BUCKET, lasting=True)
        if "RequestTimeTooSkewed" in str(error):
            text = f"{where}: the clock of this machine is wrong by minutes"
            return BucketError(text, "set the clock of the node (NTP)", lasting=True)
        for kind, codes, what, hint in (
            (self._errors.UnauthenticatedError, ("401",), "the credentials are refused", _HINT_REFUSED),
            (self._errors.PermissionDeniedError, ("403",), "not permitted", _HINT_RIGHTS),
            (self._errors.NotFoundError, (), "not there", _HINT_BUCKET),
        ):
            if isinstance(error, kind) or code in codes:  # errors of listings are of no kind
                return BucketError(f"{where}: {what}{f' ({code})' if code else ''}", hint, lasting=True)
        if "credential" in str(error).lower() or "metadata" in str(error).lower():
            return BucketError(f"{where}: no credentials: {text}", _HINT_CREDENTIALS, lasting=True)
        return BucketError(f"{where}: {f'status {code}: ' if code else ''}{text}", _HINT_LATER)


_HINT_CREDENTIALS = "docs/scale.md says how each platform gives them to the pod; none are read from our settings"
_HINT_REFUSED = f"are they of this bucket's account, and is the clock of this machine right? {_HINT_CREDENTIALS}"
_HINT_RIGHTS = "to archive one needs to put and to read objects, to ask the archive to list as well: docs/scale.md"
_HINT_BUCKET = "does the bucket (container) of AUDIT_ARCHIVE_URL exist, in this account and region?"
_HINT_LATER = "it is tried again; segments stay on the volume until then"


def _first_line(text: str) -> str:
    line = text.partition("\n")[0]
    line = re.sub(r"https?://\S+", "…", line)  # a signed URL is a credential
    return line[:200]
