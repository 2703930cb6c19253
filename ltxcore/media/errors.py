"""What is wrong with a clip, in words for the person who owns it."""

from __future__ import annotations


class MediaError(Exception):
    """Bad media. Its text is the reason that the user is shown, without the file's name in front."""
