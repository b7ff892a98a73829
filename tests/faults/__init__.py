"""What the operating system can do to a command, tried on every command: see table.py."""
