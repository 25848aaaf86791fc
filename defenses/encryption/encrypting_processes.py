"""Encryption spread over processes: the library holds the interpreter's lock while it encrypts, so threads do not help.

A process is sent a function's name and a public key when it starts and plain bytes after that. What is pickled to
start it is the name of a module-level function and the public key; no secret key can get there, because the caller has
none to give.
"""

from __future__ import annotations

import multiprocessing
import queue
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from fedsec.errors import FedsecError

from .encryptors import Encryptor

_DONE, _FAILED = b"\x00", b"\x01"


class EncryptionError(FedsecError):
    """A process that encrypts failed; carries its traceback."""


class Processes:
    """Persistent processes that all apply one function to bytes; they end when this object does, or their parent."""

    def __init__(self, make: Callable[[bytes], Encryptor], public: bytes, *, count: int) -> None:
        """Start them.

        Args:
            make: a module-level function that makes of the public key what encrypts one chunk.
            public: the public key; anything secret has no place here.
            count: how many.
        """
        context = multiprocessing.get_context("spawn")
        self.public, self.count = public, count
        self._free: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        connections: list[Connection] = []
        processes: list[BaseProcess] = []
        for _ in range(count):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make, public), daemon=True)
            process.start()
            theirs.close()
            connections.append(mine)
            processes.append(process)
            self._free.put(mine)
        # a thread per process waits for its pipe; waiting releases the lock
        self._threads = ThreadPoolExecutor(count)
        self._closed = weakref.finalize(self, _end, self._threads, connections, processes)

    def map(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """What each chunk becomes, in order; a few chunks are read ahead.

        Raises:
            EncryptionError: a process failed or died.
        """
        waiting: deque[Future[bytes]] = deque()
        for chunk in chunks:
            waiting.append(self._threads.submit(_ask, self._free, chunk))
            if len(waiting) > 4 * self.count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """End the processes."""
        self._closed()


def start(make: Callable[[bytes], Encryptor], public: bytes, *, count: int) -> Processes | None:
    """Processes, or ``None`` where this process may not have any (it is itself somebody's worker) or none are wanted.

    Without them the caller encrypts by itself: slower, with the same result.
    """
    if count < 1 or multiprocessing.current_process().daemon:
        return None
    return Processes(make, public, count=count)


def _ask(free: queue.SimpleQueue[Connection], chunk: bytes) -> bytes:
    connection = free.get()
    try:
        connection.send_bytes(chunk)
        answer = connection.recv_bytes()
    except (EOFError, OSError) as error:
        raise EncryptionError("a process that encrypts died") from error
    finally:
        free.put(connection)
    if answer[:1] == _FAILED:
        raise EncryptionError(f"a process that encrypts failed:\n{answer[1:].decode()}")
    return answer[1:]


def _serve(connection: Connection, make: Callable[[bytes], Encryptor], public: bytes) -> None:
    """A process's life: encrypt what comes until the pipe ends."""
    encrypt = make(public)
    while True:
        try:
            chunk = connection.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            answer = _DONE + encrypt(chunk)
        except Exception:  # the parent raises it
            answer = _FAILED + traceback.format_exc().encode()
        try:
            connection.send_bytes(answer)
        except OSError:
            return


def _end(threads: ThreadPoolExecutor, connections: list[Connection], processes: list[BaseProcess]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for connection in connections:
        connection.close()  # a process that waits for work reads the end of the pipe and leaves
    for process in processes:
        process.join(timeout=2)
        if process.is_alive():
            process.terminate()
            process.join()
        process.close()
