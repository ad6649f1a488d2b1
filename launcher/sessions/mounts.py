"""Which kind of file system a path is on, as the kernel's table of mounts says."""

from __future__ import annotations

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
# Where several hosts see the same files: locks and shared memory do not hold there as on a disk of one host.
_NETWORK = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "cvmfs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs",
    "pvfs2", "quobyte", "smb3", "smbfs", "vast", "virtiofs", "wekafs",
))  # fmt: skip
_OCTAL = re.compile(r"\\([0-7]{3})")


def file_system(path: Path, mounts: Path = _MOUNTS) -> str:
    """The kind of file system `path`, a path without links, is on, such as nfs4 or tmpfs; "" where nobody says."""
    best, kind = "", ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = _OCTAL.sub(lambda code: chr(int(code[1], 8)), fields[1])
        if len(mount) >= len(best) and path.is_relative_to(mount):
            best, kind = mount, fields[2]
    return kind


def shared_by_hosts(kind: str) -> bool:
    """Whether a file system of that kind is a network's; all that FUSE brings is taken for one, but for disks."""
    name = kind.lower()
    if name.startswith("fuse"):
        return name not in ("fuseblk", "fusectl", "fuse.fuse-overlayfs", "fuse.ext4", "fuse.ntfs-3g")
    return name in _NETWORK
