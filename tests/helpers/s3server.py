"""A real S3-speaking server on loopback, for tests and for trying things by hand.

    with S3Server(folder) as server:
        server.boto().create_bucket(Bucket="cxr")

The server is ministack: it speaks the S3 protocol over HTTP and keeps its objects in `folder`. It pins a
botocore other than ours and therefore lives in an environment of its own, made by `make .venv-s3`.

With CXR_S3_ENDPOINT=http://HOST:PORT (and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) a store that already
runs, say Ceph, is used instead: `external` is then true, and start, kill and stop do nothing.

Not covered: timings (a ranged read costs ministack the whole object: 136 ms for 64 KiB out of 256 MiB), wrong
secrets (it accepts them), power loss (it survives kill -9, but does not fsync), versioned buckets.

By hand: `python tests/helpers/s3server.py FOLDER PORT` prints the environment to export and serves until Ctrl-C.
"""

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

EXECUTABLE = Path(__file__).resolve().parents[2] / ".venv-s3" / "bin" / "ministack"
START_LIMIT_S = 60  # 0.8 s on an idle machine
STOP_LIMIT_S = 10
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class S3Server:
    """One server on one port and one folder. It dies with the process (and thread) that started it."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.log = self.folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.external = "CXR_S3_ENDPOINT" in os.environ
        if self.external:
            self.endpoint = os.environ["CXR_S3_ENDPOINT"]
            self.access_key = os.environ["AWS_ACCESS_KEY_ID"]
            self.secret_key = os.environ["AWS_SECRET_ACCESS_KEY"]
            self.region = os.environ.get("AWS_REGION", "us-east-1")
        else:
            self.port = port or free_port()
            self.endpoint = f"http://127.0.0.1:{self.port}"
            self.access_key = "testing"
            self.secret_key = "testing"
            self.region = "us-east-1"

    def start(self) -> Self:
        """Start serving what the folder holds; returns once the server answers."""
        if self.external:
            return self
        if not EXECUTABLE.exists():
            raise FileNotFoundError(f"{EXECUTABLE}: the S3 test server is not installed; run `make .venv-s3`")
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [EXECUTABLE],
                env=self._server_env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),
            )
        self._wait_until_it_answers(self.process)
        return self

    def kill(self) -> None:
        """kill -9, for crash tests. start() again serves the same folder on the same port."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def env(self) -> dict[str, str]:
        """What a client needs in its environment to find this server and no other."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def boto(self) -> Any:
        """A boto3 client. (boto3 makes its classes at run time: there is no type to name.)"""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3, "mode": "standard"}),
        )

    def arrow(self) -> Any:
        """A pyarrow S3FileSystem; its paths are bucket/key."""
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(
            endpoint_override=self.endpoint,
            access_key=self.access_key,
            secret_key=self.secret_key,
            region=self.region,
        )

    def _server_env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return inherited | {
            "BIND_HOST": "127.0.0.1",  # its default is 0.0.0.0
            "GATEWAY_PORT": str(self.port),
            "SERVICES": "s3",  # its default is all of AWS, and some of those run code
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.folder / "s3"),
            "STATE_DIR": str(self.folder / "state"),
            "LOG_LEVEL": "WARNING",
        }

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not answers(self.port):
            if process.poll() is not None:
                raise RuntimeError(f"ministack exited with {process.returncode}; see {self.log}")
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"ministack did not answer within {START_LIMIT_S} s; see {self.log}")
            time.sleep(0.05)


def free_port() -> int:
    """A port nobody listens on now; another process may still take it before we do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether an HTTP server on this loopback port answers, be it with a refusal."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def die_with_parent() -> Callable[[], object] | None:
    """What a child runs before exec so that the kernel kills it with its parent, even one that was kill -9'd.

    libc is loaded here, in the parent: loading it between fork and exec could deadlock beside other threads.
    Linux only; elsewhere a server whose parent was kill -9'd has to be ended by hand.
    """
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, int(signal.SIGKILL))


def main() -> None:
    folder, port = sys.argv[1:]
    with S3Server(Path(folder), int(port)) as server:
        for name, value in server.env().items():
            print(f"export {name}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
