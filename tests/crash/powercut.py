"""What a disk may hold after a power cut: replayed from the calls of a process, less what was not synced.

The model is stricter than a journalling file system. The bytes of a file are there for certain once the file was
synced, and else missing, cut in half or there. A name is there for certain once its folder was synced after it came;
until then any of these may have reached the disk: no change of a name, all, the first few, those of one folder only.
A rename takes its name away where it was exactly if it puts it where it goes.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

TRACE = (
    "trace=?open,openat,?creat,close,lseek,?dup,write,pwrite64,sendfile,?copy_file_range,fsync,fdatasync,?rename,"
    "renameat,?renameat2,?link,linkat,?symlink,symlinkat,?unlink,unlinkat,?mkdir,mkdirat,?rmdir,ftruncate,?truncate"
)

LONGEST = 1 << 20
"""Bytes of one write that strace writes out."""

_CALL = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_WORD = re.compile(r'\s*(?:"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?|([^,"]+))')


class Node:
    """A file, link or folder: what it holds now, and what of a file is on the disk for certain."""

    def __init__(self, kind: str, data: bytes = b"", durable: bool = False) -> None:
        self.kind, self.data = kind, data
        self.synced = data if durable or kind == "link" else b""


class Change(NamedTuple):
    """A name that comes (`inode`) or goes (None), or both at once in two folders; on the disk once `folder` is."""

    folder: int
    name: str
    inode: Optional[int]
    source: Optional[Tuple[int, str]] = None


Names = Dict[int, Dict[str, int]]


class Disk:
    """A folder as it was, and every call that changed it since."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inodes: List[Node] = []
        self.first: Names = {}
        self.top = self._read(root)
        self.now: Names = {key: dict(value) for key, value in self.first.items()}
        self.changes: List[Change] = []
        self.durable: Set[int] = set()
        self.open: Dict[int, Tuple[int, int, bool]] = {}
        self.unknown: List[str] = []

    def _read(self, path: Path) -> int:
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        data = os.readlink(path).encode() if kind == "link" else path.read_bytes() if kind == "file" else b""
        self.inodes.append(Node(kind, data, True))
        number = len(self.inodes) - 1
        if kind == "folder":
            self.first[number] = {item.name: self._read(item) for item in sorted(path.iterdir())}
        return number

    def _place(self, path: Union[str, int], folder: Optional[str] = None) -> Optional[Tuple[int, str]]:
        """Inode of the folder and name of a path within the root; None of any other."""
        text = str(path)
        where = self.top
        if not text.startswith("/"):
            if folder is None or folder not in {str(fd) for fd in self.open}:
                return None
            where, words = self.open[int(folder)][0], text.split("/")
        elif text == str(self.root) or text.startswith(f"{self.root}/"):
            words = os.path.relpath(text, self.root).split("/")
        else:
            return None
        for word in words[:-1]:
            below = self.now.get(where, {}).get(word)
            if below is None:
                return None
            if self.inodes[below].kind == "link":  # `active/...` is only ever read
                return None
            where = below
        return where, words[-1]

    def _inode(self, place: Optional[Tuple[int, str]]) -> Optional[int]:
        if place is None:
            return None
        return place[0] if place[1] == "." else self.now.get(place[0], {}).get(place[1])

    def _change(self, change: Change) -> None:
        self.changes.append(change)
        apply(self.now, change)

    def _new(self, place: Tuple[int, str], kind: str, data: bytes = b"") -> int:
        self.inodes.append(Node(kind, data))
        number = len(self.inodes) - 1
        if kind == "folder":
            self.first[number], self.now[number] = {}, {}
        self._change(Change(*place, number))
        return number

    def play(self, line: str, pid: str) -> bool:
        """Take one line of strace's; returns whether it changed or synced something here."""
        found = _CALL.match(line)
        if found is None or found[1] != pid or int(found[4]) < 0:
            return False
        name, words, result = found[2], _words(found[3]), int(found[4])
        before = len(self.changes)
        if name in ("open", "openat", "creat"):
            at = 1 if name == "openat" else 0
            self._opened(words[at], words[0] if at else None, words[at + 1], result)
            return len(self.changes) > before
        if name == "close":
            self.open.pop(int(words[0]), None)
            return False
        if name == "lseek":
            self._moved(int(words[0]), result)
            return False
        if name in ("write", "pwrite64", "sendfile", "copy_file_range", "ftruncate", "fsync", "fdatasync"):
            return self._on_file(name, words, result)
        if name in ("rename", "renameat", "renameat2"):
            pair = (words[0], None, words[1], None) if name == "rename" else (words[1], words[0], words[3], words[2])
            source, target = self._place(pair[0], pair[1]), self._place(pair[2], pair[3])
            inode = self._inode(source)
            if source is not None and target is not None and inode is not None:
                self._change(Change(*target, inode, source))
        elif name in ("symlink", "symlinkat"):
            place = self._place(words[-1], None if name == "symlink" else words[1])
            if place is not None:
                self._new(place, "link", words[0].encode())
        elif name in ("link", "linkat"):
            old, new = (0, 1) if name == "link" else (1, 3)
            place, inode = self._place(words[new]), self._inode(self._place(words[old]))
            if place is not None and inode is not None:
                self._change(Change(*place, inode))
        elif name in ("mkdir", "mkdirat"):
            place = self._place(words[0] if name == "mkdir" else words[1], None if name == "mkdir" else words[0])
            if place is not None:
                self._new(place, "folder")
        elif name in ("unlink", "rmdir", "unlinkat"):
            place = self._place(words[1], words[0]) if name == "unlinkat" else self._place(words[0])
            if place is not None:
                self._change(Change(*place, None))
        else:
            self.unknown.append(line)
        return len(self.changes) > before

    def _opened(self, path: str, folder: Optional[str], flags: str, fd: int) -> None:
        place = self._place(path, folder)
        inode = self._inode(place)
        if inode is None and place is not None and "O_CREAT" in flags:
            inode = self._new(place, "file")
        if inode is None:
            self.open.pop(fd, None)
            return
        if "O_TRUNC" in flags:
            self.inodes[inode].data = b""
        self.open[fd] = (inode, 0, "O_APPEND" in flags)

    def _moved(self, fd: int, position: int) -> None:
        if fd in self.open:
            inode, _, append = self.open[fd]
            self.open[fd] = (inode, position, append)

    def _on_file(self, name: str, words: List[str], result: int) -> bool:
        fd = int(words[2] if name == "copy_file_range" else words[0])
        if fd not in self.open:
            return False
        inode, position, append = self.open[fd]
        node = self.inodes[inode]
        if name in ("fsync", "fdatasync"):
            node.synced = node.data
            self.durable |= {i for i, change in enumerate(self.changes) if change.folder == inode}
            return True
        if name == "ftruncate":
            node.data = node.data[: int(words[1])]
            return True
        if name in ("sendfile", "copy_file_range"):
            source = self.open.get(int(words[1] if name == "sendfile" else words[0]))
            assert source is not None, "a copy from elsewhere is not modelled"
            offset = re.search(r"\d+", words[2] if name == "sendfile" else words[1])
            start = int(offset[0]) if offset else source[1]
            data = self.inodes[source[0]].data[start : start + result]
        else:
            data = words[1].encode("latin-1")[:result]
        at = int(words[3]) if name == "pwrite64" else len(node.data) if append else position
        node.data = node.data[:at].ljust(at, b"\0") + data + node.data[at + len(data) :]
        if name != "pwrite64":
            self.open[fd] = (inode, at + len(data), append)
        return True

    def survivors(self) -> Iterator[Names]:
        """The names that may be there after a cut now."""
        pending = [i for i in range(len(self.changes)) if i not in self.durable]
        chosen = [set(pending[:count]) for count in range(len(pending) + 1)]
        for folder in {self.changes[i].folder for i in pending}:
            chosen.append({i for i in pending if self.changes[i].folder == folder})
        for some in chosen:
            names = {key: dict(value) for key, value in self.first.items()}
            for i, change in enumerate(self.changes):
                if i in self.durable or i in some:
                    apply(names, change)
            yield names

    def states(self) -> Iterator[Dict[str, Tuple[str, bytes]]]:
        """Every folder that may be there after a cut now: relative path to kind and content."""
        for names in self.survivors():
            for bytes_left in ("synced", "half", "all"):
                found: Dict[str, Tuple[str, bytes]] = {}
                self._walk(names, self.top, "", bytes_left, found)
                yield found

    def last(self) -> Dict[str, Tuple[str, bytes]]:
        """The folder as it is when nothing is lost."""
        found: Dict[str, Tuple[str, bytes]] = {}
        self._walk(self.now, self.top, "", "all", found)
        return found

    def _walk(self, names: Names, folder: int, path: str, bytes_left: str, found: Dict[str, Tuple[str, bytes]]) -> None:
        for name, inode in names.get(folder, {}).items():
            node = self.inodes[inode]
            data = node.data
            if bytes_left == "synced":
                data = node.synced
            elif bytes_left == "half" and node.data != node.synced:
                data = node.data[: (len(node.synced) + len(node.data)) // 2]
            found[path + name] = (node.kind, data)
            if node.kind == "folder":
                self._walk(names, inode, f"{path}{name}/", bytes_left, found)


def apply(names: Names, change: Change) -> None:
    """Let a name come or go."""
    if change.source is not None:
        names.get(change.source[0], {}).pop(change.source[1], None)
    entries = names.setdefault(change.folder, {})
    if change.inode is None:
        entries.pop(change.name, None)
    else:
        entries[change.name] = change.inode


def put(state: Dict[str, Tuple[str, bytes]], root: Path) -> None:
    """Make the folder of a state."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path, (kind, data) in state.items():
        if kind == "folder":
            (root / path).mkdir()
        elif kind == "link":
            os.symlink(data.decode(), root / path)
        else:
            (root / path).write_bytes(data)


def _words(text: str) -> List[str]:
    found = []
    for match in _WORD.finditer(text):
        if match[3] is not None:
            found.append(match[3].strip())
        else:
            assert not match[2], "strace cut a word short"
            found.append(bytes.fromhex(match[1].replace("\\x", "")).decode("latin-1"))
    return found
