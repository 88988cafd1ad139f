"""A real ssh server on this machine: installed if need be, with keys and a configuration of its own."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from debian import lacking
from lab import NoLabError, is_taken, wait_until

PACKAGES = {"sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync"}
HOST = "cluster"


class Server:
    """An ssh server that lets in one key; `client` is what `ssh -F` takes to find it as HOST."""

    def __init__(self, folder: Path):
        self.process = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / f"{name}_key"], check=True
            )
        key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")
        self.client = folder / "ssh_config"
        self.client.write_text(
            f"Host {HOST}\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  BatchMode yes\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n"
        )
        # The temporary folder may be everybody's, which StrictModes minds.
        self.configuration = folder / "sshd_config"
        self.configuration.write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host_key\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder}/user_key.pub\nPasswordAuthentication no\nUsePAM no\n"
            f"SetEnv PATH={Path(sys.executable).parent}:{os.environ['PATH']} OMP_NUM_THREADS=1\n"
        )
        self.log = folder / "sshd.log"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [shutil.which("sshd"), "-D", "-f", self.configuration, "-E", self.log], start_new_session=True
        )
        wait_until(lambda: is_taken(self.port), "the ssh server listens", 20)

    def stop(self) -> None:
        """With the connections that are open, as when a cable is pulled."""
        for pid in [*descendants(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    os.kill(pid, 9)
        self.process.wait()


def descendants(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(other for child in found for other in descendants(child))]


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    if reason := lacking(PACKAGES):
        raise NoLabError(reason)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
