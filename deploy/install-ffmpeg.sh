#!/bin/sh
# See to ffmpeg and ffprobe: install them where that needs nobody's leave, otherwise say how.
set -eu

if command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null; then
    exit 0
fi
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ffmpeg
elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
    sudo apt-get update -qq
    sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ffmpeg
elif command -v brew >/dev/null; then
    brew install ffmpeg
else
    echo "ffmpeg and ffprobe are needed and could not be installed from here." >&2
    echo "  Debian, Ubuntu:  sudo apt-get install ffmpeg" >&2
    echo "  macOS:           brew install ffmpeg" >&2
    echo "  Fedora:          sudo dnf install ffmpeg-free" >&2
    exit 1
fi
