"""Archives made to write outside their folder or to break an unpacker: {name: writer}, for test_hostile_inputs.py."""

import io
import tarfile
import zipfile

import numpy as np


def _tar(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 1 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"x"))


def _zip(path, *names, mode=0o100644):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr = name, mode << 16
            archive.writestr(info, "x")


def _cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def _encrypted(path):
    _zip(path, "a")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flags of the member, and of its entry in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
ARCHIVES = {
    "tar out": lambda path: _tar(path, ("../out", FILE, "")),
    "tar out, hidden": lambda path: _tar(path, ("a/b/../../../out", FILE, "")),
    "tar absolute": lambda path: _tar(path, (str(path.parent / "out"), FILE, "")),
    "tar link": lambda path: _tar(path, ("a", LINK, ".."), ("a/out", FILE, "")),
    "tar hard link": lambda path: _tar(path, ("a", HARD, "/etc/passwd")),
    "tar device": lambda path: _tar(path, ("a", tarfile.CHRTYPE, "")),
    "tar pipe": lambda path: _tar(path, ("a", tarfile.FIFOTYPE, "")),
    "tar file below a file": lambda path: _tar(path, ("a", FILE, ""), ("a/b", FILE, "")),
    "tar file twice": lambda path: _tar(path, ("a", FILE, ""), ("a", FILE, "")),
    "tar file in a folder's place": lambda path: _tar(path, ("a/b", FILE, ""), ("a", FILE, "")),
    "tar long name": lambda path: _tar(path, ("a" * 5000, FILE, "")),
    "tar cut": lambda path: (_tar(path, *((f"{i}", FILE, "") for i in range(200))), _cut(path)),
    "zip out": lambda path: _zip(path, "../out"),
    "zip out, Windows": lambda path: _zip(path, "..\\out"),
    "zip absolute": lambda path: _zip(path, str(path.parent / "out")),
    "zip link": lambda path: _zip(path, "a", mode=0o120777),
    "zip empty name": lambda path: _zip(path, ""),
    "zip file twice": lambda path: _zip(path, "a", "a"),
    "zip cut": lambda path: (_zip(path, *map(str, range(200))), _cut(path)),
    "zip encrypted": _encrypted,
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "empty": lambda path: path.write_bytes(b""),
}
