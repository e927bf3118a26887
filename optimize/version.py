"""The version, alone in a file that nothing heavy shares."""

VERSION = "0.1.0"
