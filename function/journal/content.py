"""What a segment holds, read in one way: whether its file is compressed (``.ndjson.zst``) or not.

A segment is named by its plain path, also where only the compressed file is there: that is looked for second, because
the compressor removes the plain one last. So does gzip, which people run by hand (``.ndjson.gz``). Offsets and sizes
are those of the records, never of the compressed file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from .files import Files, Status, write_all

__all__ = [
    "COMPRESSED",
    "GZIPPED",
    "compress",
    "compressed",
    "content_blocks",
    "content_status",
    "decompressed",
    "holds_a_line",
    "is_compressed",
    "open_content",
    "plain_path",
    "read_content",
    "unfinished_path",
    "whole_lines",
]

COMPRESSED = ".zst"
GZIPPED = ".gz"
# A tenth smaller than level 1 for a sixth more CPU; 6 is a fifth smaller for two thirds more (bench/archive.py).
LEVEL = 3
_BLOCK_BYTES = 1 << 20
_HEADER_BYTES = 18  # the longest header of a frame (RFC 8878, 3.1.1.1)


def plain_path(path: str) -> str:
    """Return the path that names the segment: without what says that it is compressed."""
    return path.removesuffix(COMPRESSED).removesuffix(GZIPPED)


def unfinished_path(path: str) -> str:
    """Return where a segment is while it is being compressed; a compressor that was killed leaves it there."""
    return f"{plain_path(path)}{COMPRESSED}.tmp"


def is_compressed(path: str) -> bool:
    """Return whether ``path`` names a compressed file."""
    return path.endswith((COMPRESSED, GZIPPED))


def open_content(files: Files, path: str) -> int:
    """Return the descriptor of what a segment holds; a compressed one is decompressed to a file without a name.

    Raises `OSError`.
    """
    opened = _opened(files, path)
    return opened if isinstance(opened, int) else _scratch(files, content_blocks(files, opened))


def content_blocks(files: Files, path: str, offset: int = 0) -> Iterator[bytes]:
    """Yield what a segment holds from ``offset`` on, a block at a time. Raises `OSError`."""
    opened = _opened(files, path)
    if isinstance(opened, int):
        try:
            while block := files.read(opened, _BLOCK_BYTES, offset):
                offset += len(block)
                yield block
        finally:
            with contextlib.suppress(OSError):  # it was only read
                files.close(opened)
    else:
        expanded = gunzipped if opened.endswith(GZIPPED) else decompressed
        for block in expanded(files.blocks(opened, 0), opened):
            if len(block) > offset:
                yield block[offset:] if offset else block
            offset = max(0, offset - len(block))


def content_status(files: Files, path: str) -> Status:
    """Return the status of a segment's file, with the bytes that it holds uncompressed. Raises `OSError`."""
    opened = _opened(files, path)
    if isinstance(opened, int):
        try:
            return files.status(opened)
        finally:
            files.close(opened)
    return files.status(opened)._replace(bytes=_decompressed_bytes(files, opened))


def read_content(files: Files, path: str, size: int, offset: int) -> bytes:
    """Return up to ``size`` bytes of what a segment holds, from ``offset`` on. Raises `OSError`."""
    found = b""
    for block in content_blocks(files, path, offset):
        found += block[: size - len(found)]
        if len(found) == size:
            break
    return found


def holds_a_line(files: Files, path: str, offset: int) -> bool:
    """Return whether a line of a segment ends at ``offset`` or behind it. Raises `OSError`."""
    return any(b"\n" in block for block in content_blocks(files, path, offset))


def whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield ``blocks`` cut anew, so that each ends with a line; what follows the last line is left out."""
    rest = b""
    for block in blocks:
        data = rest + block if rest else block
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if end:
            yield data[:end]


def compress(files: Files, path: str) -> int:
    """Replace the segment ``path``, which nobody writes any more, by ``path.zst``; return the bytes of that.

    A crash leaves the one, or both, which hold the same. What was written is read back before the plain file goes.
    Raises `OSError`.
    """
    status = files.status(path)
    temporary = unfinished_path(path)
    digest = hashlib.sha256()

    def read() -> Iterator[bytes]:
        for block in files.blocks(path, 0):
            digest.update(block)
            yield block

    size = _written(files, temporary, compressed(read(), status.bytes))
    try:
        back = hashlib.sha256()
        for block in decompressed(files.blocks(temporary, 0), temporary):
            back.update(block)
        if back.digest() != digest.digest() or files.status(path) != status:
            raise OSError(errno.EIO, "not the same when it was read back: left as it was", path)
        files.touch(temporary, status.modified_ns / 1e9)  # retention goes by it
        files.rename(temporary, f"{path}{COMPRESSED}")
    except OSError:
        with contextlib.suppress(OSError):
            files.remove(temporary)
        raise
    directory = path.rpartition("/")[0]
    files.sync_directory(directory)
    files.remove(path)
    files.sync_directory(directory)
    return size


def compressed(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield ``blocks``, ``size`` bytes in all, as one zstd frame that says its size and has a checksum (RFC 8878).

    Raises `OSError` where the library is missing, or the size is another.
    """
    zstd = _zstd("")
    options = {zstd.CompressionParameter.compression_level: LEVEL, zstd.CompressionParameter.checksum_flag: 1}
    compressor = zstd.ZstdCompressor(options=options)
    compressor.set_pledged_input_size(size)
    try:
        for block in blocks:
            if out := compressor.compress(block):
                yield out
        yield compressor.flush()
    except zstd.ZstdError as error:
        raise OSError(errno.EIO, f"it changed while it was compressed: {error}") from None


def decompressed(blocks: Iterable[bytes], path: str) -> Iterator[bytes]:
    """Yield what the zstd frames in ``blocks`` hold; ``path`` is for errors. Raises `OSError` where they are cut."""
    zstd = _zstd(path)
    decompressor, is_between = zstd.ZstdDecompressor(), False
    try:
        for block in blocks:
            data = block
            while data or not (decompressor.eof or decompressor.needs_input):
                if decompressor.eof:
                    decompressor = zstd.ZstdDecompressor()
                if out := decompressor.decompress(data, _BLOCK_BYTES):
                    yield out
                data = decompressor.unused_data if decompressor.eof else b""
            is_between = decompressor.eof
    except zstd.ZstdError as error:
        raise OSError(errno.EIO, f"not a zstd file: {error}", path) from None
    if not is_between:
        raise OSError(errno.EIO, "not a whole zstd file: cut short?", path)


def gunzipped(blocks: Iterable[bytes], path: str) -> Iterator[bytes]:
    """Yield what the gzip members in ``blocks`` hold; ``path`` is for errors. Raises `OSError` where they are cut."""
    decompressor, is_between = zlib.decompressobj(zlib.MAX_WBITS | 16), False
    try:
        for block in blocks:
            data = block
            while data:
                if decompressor.eof:
                    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
                if out := decompressor.decompress(data, _BLOCK_BYTES):
                    yield out
                data = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
            is_between = decompressor.eof
    except zlib.error as error:
        raise OSError(errno.EIO, f"not a gzip file: {error}", path) from None
    if not is_between:
        raise OSError(errno.EIO, "not a whole gzip file: cut short?", path)


# -- steps ------------------------------------------------------------------------------------------------------------


def _opened(files: Files, path: str) -> int | str:
    """Return the descriptor of a plain segment, or the path of a compressed one. Raises `OSError`."""
    if is_compressed(path):
        return path
    try:
        return files.open_to_read(path)
    except FileNotFoundError:
        for suffix in (COMPRESSED, GZIPPED):
            with contextlib.suppress(OSError):
                files.status(f"{path}{suffix}")
                return f"{path}{suffix}"
        raise


def _scratch(files: Files, blocks: Iterable[bytes]) -> int:
    fd = files.open_scratch()
    try:
        for block in blocks:
            write_all(files, fd, block)
        files.rewind(fd)
    except BaseException:
        files.close(fd)
        raise
    return fd


def _decompressed_bytes(files: Files, path: str) -> int:
    """Return what the first frame says that it holds; where it does not, somebody else's has to be read.

    A gzip file says it of its last member; gzip makes one, up to 4 GiB.
    """
    if path.endswith(GZIPPED):
        return int.from_bytes(files.tail(path, 4), "little")
    fd = files.open_to_read(path)
    try:
        header = files.read(fd, _HEADER_BYTES, 0)
    finally:
        files.close(fd)
    zstd = _zstd(path)
    try:
        found: int | None = zstd.get_frame_info(header).decompressed_size
    except zstd.ZstdError as error:
        raise OSError(errno.EIO, f"not a zstd file: {error}", path) from None
    return sum(map(len, content_blocks(files, path))) if found is None else found


def _written(files: Files, path: str, blocks: Iterable[bytes]) -> int:
    """Write the file ``path``, durably; return its bytes."""
    size = 0
    fd = files.open_to_replace(path)
    try:
        try:
            for block in blocks:
                write_all(files, fd, block)
                size += len(block)
            files.datasync(fd)
        finally:
            files.close(fd)
    except OSError:
        with contextlib.suppress(OSError):  # on a full disk it is in the way
            files.remove(path)
        raise
    return size


def _zstd(path: str) -> Any:
    """Return Python's zstd library: of its own from 3.14 on."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415 - only where something is compressed
        else:
            from backports import zstd  # noqa: PLC0415 - as above
    except ImportError:
        text = "compressed with zstd, which is not installed here: pip install '.[archive]' in the clone"
        raise OSError(errno.EOPNOTSUPP, text, path or None) from None
    return zstd
