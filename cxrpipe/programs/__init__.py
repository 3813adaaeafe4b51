"""The programs, a file each, but for what Ray does: `run(settings) -> exit status`."""
