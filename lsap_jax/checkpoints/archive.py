"""Getting at the bytes: files, and records in zip archives, with every way they can be damaged reported."""

import io
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator

from lsap_jax.errors import CheckpointError

_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, LookupError, OSError, EOFError, ArithmeticError)
_FOREIGN = (NotImplementedError, RuntimeError)  # what zipfile raises for exotic compression and for passwords

Source = str | os.PathLike | bytes | bytearray


def read_source(source: Source) -> tuple[bytes, str]:
    """(the bytes, a name for messages) of a path, or of bytes already in memory.

    Raises:
      CheckpointError: if there is no such file, or it cannot be read.
    """
    if isinstance(source, bytes | bytearray):
        return bytes(source), f"{len(source)} bytes in memory"
    path = pathlib.Path(source)
    try:
        return path.read_bytes(), str(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; check the path, or fetch the weights first") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: a folder; name the weight file in it") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


class Archive:
    """The records of a zip archive in memory, each checked against its checksum when it is read.

    Raises:
      CheckpointError: if the archive's directory is damaged or missing, as after a broken download, or if it would
        unpack to absurdly more than its own size.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            self._records = {info.filename: info for info in self._zip.infolist()}
        except (*_DAMAGED, *_FOREIGN) as error:
            raise CheckpointError(
                f"{name}: a damaged or truncated zip archive ({error}); download or copy the file again"
            ) from error
        unpacked = sum(info.file_size for info in self._records.values())
        if unpacked > 2**32 + 20 * len(data):
            raise CheckpointError(f"{name}: {len(data)} bytes would unpack to {unpacked}; not a weight file")

    def __contains__(self, record: str) -> bool:
        return record in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def read(self, record: str) -> memoryview:
        """The contents of a record; without a copy if they are stored uncompressed.

        Raises:
          CheckpointError: if there is no such record, or it is damaged.
        """
        info = self._records.get(record)
        if info is None:
            raise CheckpointError(f"{self._name}: record {record!r} is missing; download or save the file again")
        try:
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
                lengths = struct.unpack_from("<HH", self._data, info.header_offset + 26)
                start = info.header_offset + 30 + sum(lengths)
                contents = memoryview(self._data)[start : start + info.file_size]
                # PyTorch writes 0 for "not computed" if it is told to leave checksums out.
                intact = not info.CRC or zlib.crc32(contents) == info.CRC
            elif info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                with self._zip.open(info) as file:
                    contents = memoryview(file.read(info.file_size))  # with a limit: the record may be a bomb
                intact = True  # zipfile has compared the checksum
            else:
                raise NotImplementedError("an unusual compression")
        except (*_DAMAGED, *_FOREIGN) as error:
            raise CheckpointError(f"{self._name}: record {record!r} cannot be read ({error})") from error
        if len(contents) != info.file_size or not intact:
            raise CheckpointError(f"{self._name}: record {record!r} is damaged; download or copy the file again")
        return contents
