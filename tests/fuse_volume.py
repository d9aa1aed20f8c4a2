"""A volume that goes away and comes back: a file system in user space that the real kernel mounts (FUSE), as root.

It passes everything on to a directory. By a word on its standard input it stops answering, as the server of a hard NFS
mount does that is gone; or it answers every call with an error, as a soft mount does; or it forgets what is open
(ESTALE), as a server that was started again.

    python fuse_volume.py BACKING MOUNTPOINT     words: hang, go, fail ERRNO, restart
"""

import contextlib
import ctypes
import errno
import os
import select
import struct
import subprocess
import sys

IN = struct.Struct("<IIQQIIIHH")
OUT = struct.Struct("<IiQ")
LIBC = ctypes.CDLL(None, use_errno=True)
FORGET, BATCH_FORGET, INIT, INTERRUPT = 2, 42, 26, 36
SIZE, MTIME, MTIME_NOW, MODE = 8, 32, 256, 1


class Volume:
    def __init__(self, backing, mountpoint):
        self.paths = {1: backing}
        self.ids = {backing: 1}
        self.open_files = {}
        self.generation = 0
        self.failing = 0
        self.hanging = False
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if LIBC.mount(b"fuse_volume", mountpoint.encode(), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "cannot mount")
        self.calls = {
            1: self.lookup, 3: self.getattr, 4: self.setattr, 9: self.mkdir, 10: self.unlink, 11: self.rmdir,
            12: self.rename, 14: self.open, 15: self.read, 16: self.write, 17: self.statfs, 18: self.release,
            20: self.fsync, 25: self.nothing, 26: self.init, 27: self.opendir, 28: self.readdir, 29: self.nothing,
            30: self.nothing, 34: self.nothing, 35: self.create, 45: self.rename2,
        }  # fmt: skip

    def serve(self):
        print("mounted", flush=True)
        while True:
            files = [0] if self.hanging else [0, self.device]
            readable, _, _ = select.select(files, [], [])
            if 0 in readable and not self.obey(os.read(0, 4096).decode().split()):
                return
            if self.device in readable and not self.answer():
                return

    def obey(self, words):
        if not words:
            return False
        self.hanging = "hang" in words
        self.failing = int(words[words.index("fail") + 1]) if "fail" in words else 0
        if "restart" in words:
            self.generation += 1
        print("done", flush=True)
        return True

    def answer(self):
        try:
            request = os.read(self.device, (1 << 20) + 4096)
        except OSError as error:
            return error.errno in (errno.EINTR, errno.ENOENT)  # else it was unmounted
        _, opcode, unique, node, *_ = IN.unpack_from(request)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return True
        code, data = 0, b""
        try:
            if self.failing and opcode != INIT:
                raise OSError(self.failing, "")
            if opcode not in self.calls:
                raise OSError(errno.ENOSYS, "")
            data = self.calls[opcode](node, request[IN.size :])
        except OSError as error:
            code = error.errno
        with contextlib.suppress(OSError):  # whoever asked is gone
            os.write(self.device, OUT.pack(OUT.size + len(data), -code, unique) + data)
        return True

    # -- calls: each takes the node and the arguments, and returns the answer's bytes ---------------------------

    def init(self, node, data):
        _, _, readahead, _ = struct.unpack_from("<IIII", data)
        return struct.pack("<IIIIHHIIHHI7I", 7, 31, readahead, 0, 16, 12, 1 << 20, 1, 0, 0, 0, *[0] * 7)

    def lookup(self, node, data):
        return self.entry(self.below(node, data))

    def getattr(self, node, data):
        return struct.pack("<QII", 0, 0, 0) + self.attributes(self.paths[node])

    def setattr(self, node, data):
        valid, _, fh, size, _, atime, mtime, _, atime_ns, mtime_ns = struct.unpack_from("<IIQQQQQQII", data)
        path = self.paths[node]
        if valid & 64:
            self.file(fh)
        if valid & SIZE:
            os.truncate(path, size)
        if valid & (MTIME | MTIME_NOW):
            now = valid & MTIME_NOW
            os.utime(path, None) if now else os.utime(path, ns=(atime * 10**9 + atime_ns, mtime * 10**9 + mtime_ns))
        return self.getattr(node, b"")

    def mkdir(self, node, data):
        path = self.below(node, data[8:])
        os.mkdir(path, struct.unpack_from("<I", data)[0] & 0o777)
        return self.entry(path)

    def unlink(self, node, data):
        os.unlink(self.below(node, data))
        return b""

    def rmdir(self, node, data):
        os.rmdir(self.below(node, data))
        return b""

    def rename(self, node, data, skip=8):
        old, new = data[skip:].split(b"\0")[:2]
        source, target = self.below(node, old), self.below(struct.unpack_from("<Q", data)[0], new)
        os.rename(source, target)
        self.ids[target] = self.ids.pop(source, None) or self.node_of(target)
        self.paths[self.ids[target]] = target
        return b""

    def rename2(self, node, data):
        return self.rename(node, data, 16)

    def open(self, node, data):
        flags = struct.unpack_from("<I", data)[0] & ~(os.O_APPEND | os.O_CREAT | os.O_EXCL)
        return self.opened(os.open(self.paths[node], flags))

    def create(self, node, data):
        _, mode, _, _ = struct.unpack_from("<IIII", data)
        path = self.below(node, data[16:])
        fd = os.open(path, os.O_RDWR | os.O_CREAT, mode & 0o777)
        return self.entry(path) + self.opened(fd)

    def read(self, node, data):
        fh, offset, size = struct.unpack_from("<QQI", data)
        return os.pread(self.file(fh), size, offset)

    def write(self, node, data):
        fh, offset, size = struct.unpack_from("<QQI", data)
        return struct.pack("<II", os.pwrite(self.file(fh), data[40 : 40 + size], offset), 0)

    def fsync(self, node, data):
        os.fdatasync(self.file(struct.unpack_from("<Q", data)[0]))
        return b""

    def release(self, node, data):
        fd, _ = self.open_files.pop(struct.unpack_from("<Q", data)[0])
        os.close(fd)
        return b""

    def statfs(self, node, data):
        found = os.statvfs(self.paths[1])
        sizes = (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
        return struct.pack("<5Q4I6I", *sizes, found.f_bsize, found.f_namemax, found.f_frsize, 0, *[0] * 6)

    def opendir(self, node, data):
        return struct.pack("<QII", 0, 0, 0)

    def readdir(self, node, data):
        _, offset, size = struct.unpack_from("<QQI", data)
        answer = b""
        for number, name in list(enumerate(sorted(os.listdir(self.paths[node])), 1))[offset:]:
            raw = name.encode()
            kind = 4 if os.path.isdir(os.path.join(self.paths[node], name)) else 8
            entry = struct.pack("<QQII", number, number, len(raw), kind) + raw
            entry += b"\0" * (-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer

    def nothing(self, node, data):
        return b""

    # -- their parts --------------------------------------------------------------------------------------------

    def below(self, node, name):
        return os.path.join(self.paths[node], name.split(b"\0")[0].decode())

    def node_of(self, path):
        if path not in self.ids:
            self.ids[path] = max(self.paths) + 1
            self.paths[self.ids[path]] = path
        return self.ids[path]

    def file(self, fh):
        fd, generation = self.open_files[fh]
        if generation != self.generation:
            raise OSError(errno.ESTALE, "")
        return fd

    def opened(self, fd):
        self.open_files[fd] = (fd, self.generation)
        return struct.pack("<QII", fd, 0, 0)

    def entry(self, path):
        attributes = self.attributes(path)
        return struct.pack("<QQQQII", self.node_of(path), 0, 0, 0, 0, 0) + attributes

    def attributes(self, path):
        one = os.lstat(path)
        times = (one.st_atime_ns, one.st_mtime_ns, one.st_ctime_ns)
        return struct.pack(
            "<6Q10I",
            one.st_ino, one.st_size, one.st_blocks, *[ns // 10**9 for ns in times], *[ns % 10**9 for ns in times],
            one.st_mode, one.st_nlink, one.st_uid, one.st_gid, 0, 4096, 0,
        )  # fmt: skip


@contextlib.contextmanager
def mounted(backing, mountpoint):
    """Mount ``backing`` on ``mountpoint``; yield what says a word to it. Raises `OSError` where it is not allowed."""
    backing.mkdir()
    mountpoint.mkdir()
    command = [sys.executable, __file__, str(backing), str(mountpoint)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def say(words):
        process.stdin.write(words.encode())
        process.stdin.flush()
        assert process.stdout.readline() == b"done\n"

    try:
        if process.stdout.readline() != b"mounted\n":
            raise OSError(errno.EPERM, "no FUSE here")
        yield say
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=False, capture_output=True)
        process.kill()
        process.communicate()


if __name__ == "__main__":
    Volume(sys.argv[1], sys.argv[2]).serve()
