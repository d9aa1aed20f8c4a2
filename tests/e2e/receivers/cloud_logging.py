"""A Cloud Logging of other people's code (drongo) on a free port: prints ``listening PORT`` and stays."""

import threading

from drongo.services.logging import LoggingEmulator, logging_backends

if __name__ == "__main__":
    emulator = LoggingEmulator(logging_backends)
    emulator.start()
    print("listening", emulator.address.rpartition(":")[2], flush=True)
    threading.Event().wait()
