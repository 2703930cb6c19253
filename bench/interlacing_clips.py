"""Material for the comb detector: whole frames that look combed, and frames woven of two fields.

Sources are those of ffmpeg's lavfi, `{s}` is the size and `{r}` the rate of the frames drawn. Everything is
encoded as progressive, so nothing but the pictures tells.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

FRAMES = 40
"""Of a clip: the detector takes 48 at its beginning and 48 from its middle."""
SIZES = ("640x360", "1024x576", "1920x1080")
RATES = {"640x360": ("24", "60"), "1024x576": ("30000/1001",), "1920x1080": ("25",)}
WHOLE_QUALITIES, FIELD_QUALITIES = (12, 36), (12, 24)
"""Of x264 (crf): nearly lossless, as is usual (24), and as bad as a clip from a messenger, in which fields
are blended and few combs left to be found."""
FONT = "font=DejaVu Sans"

_STILL = "trim=end_frame=1,loop=-1:1:0,setpts=N/({r}*TB)"
_TEXTURE = f"mandelbrot=s={{s}}:r={{r}}:start_scale=0.01,{_STILL}"
_SOFT = f"color=gray:s=96x54:r={{r}},noise=alls=100:all_seed=7,{_STILL},scale={{s}}:flags=bicubic"
_LINES = "color=s={s}:r={r},crop=16:ih,geq=cb=128:cr=128:lum={lines},scale={s}:flags=neighbor,setsar=1"
_PLAIN = "color=0x203040:s={s}:r={r}"
_BAR = f"{_PLAIN},drawbox=w=iw/7:c=white:t=fill"
_WORDS = "Directed by\\nNobody at all\\n\\nLighting\\nMaria Ilves\\n\\nSound\\nJ. K. Fineline"


def _credits(lines_a_frame: float, source: str = _PLAIN) -> str:
    place = f"x=(w-tw)/2:y=h*0.8-{lines_a_frame}*n"
    return f"{source},drawtext={FONT}:text='{_WORDS}':fontcolor=white:fontsize=h/18:{place}"


def _lines(expression: str) -> str:
    return _LINES.replace("{lines}", f"'{expression}'")


WHOLE: dict[str, str] = {
    "testsrc2": "testsrc2=s={s}:r={r}",
    "testsrc2 with film grain": "testsrc2=s={s}:r={r},noise=alls=20:allf=t",
    "mandelbrot, zooming": "mandelbrot=s={s}:r={r}:start_scale=0.01:end_scale=0.001:end_pts=200",
    "texture, 1 line up a frame": f"{_TEXTURE},scroll=v={{line}}",
    "texture, 3 lines down a frame": f"{_TEXTURE},scroll=v=-3*{{line}}",
    "texture, sideways fast": f"{_TEXTURE},scroll=h=0.03",
    "soft shapes, sideways": f"{_SOFT},scroll=h=0.01",
    "soft shapes, 3 lines down a frame": f"{_SOFT},scroll=v=-3*{{line}}",
    "soft shapes, slanting": f"{_SOFT},scroll=h=0.01:v=0.0123",
    "texture, shaken": f"{_TEXTURE},crop=iw-16:ih-16:8+8*sin(n/2):8+8*cos(n/3),scale={{s}}",
    "noise": "color=gray:s={s}:r={r},noise=alls=80:allf=t",
    "noise of large grains": "color=gray:s=160x90:r={r},noise=alls=80:allf=t,scale={s}",
    "cellauto, rule 110": "cellauto=s={s}:r={r}:rule=110:seed=7,format=gray",
    "cellauto, rule 30": "cellauto=s={s}:r={r}:rule=30:seed=7,format=gray",
    "life": "life=s={s}:r={r}:mold=10:seed=7:ratio=0.2,format=gray",
    "life, large cells": "life=s=160x90:r={r}:mold=10:seed=7:ratio=0.2,format=gray,scale={s}:flags=neighbor",
    "lines of 1, still": _lines("if(mod(Y,2),235,16)"),
    "lines of 1, 1 up a frame": _lines("if(mod(Y+N,2),235,16)"),
    "lines of 1, flickering": _lines("if(mod(Y,2),235-100*mod(N,2),16)"),
    "lines of 2, 1 up a frame": _lines("if(mod(floor((Y+N)/2),2),235,16)"),
    "lines of 3, 2 down a frame": _lines("if(mod(floor((Y-2*N+999)/3),2),235,16)"),
    "lines of 1.5, moving": _lines("126+109*sin(2*PI*(Y+0.7*N)/3)"),
    "lines of 1, some passing": f"{_lines('if(mod(Y,2),235,16)')},drawbox=w=iw/3:c=gray:t=fill,scroll=h=0.01",
    "window blinds swinging": _lines("126+109*sin(2*PI*Y/(2.2+0.2*sin(N/5)))"),
    "sierpinski": "sierpinski=s={s}:r={r}:jump=20:seed=7",
    "gradients": "gradients=s={s}:r={r}:speed=0.05:seed=7",
    "credits, 1 line up a frame": _credits(1),
    "credits, 2 lines up a frame": _credits(2),
    "credits, 2.5 lines up a frame": _credits(2.5),
    "credits, 5 lines up a frame": _credits(5),
    "credits over a texture": _credits(2, f"{_TEXTURE}"),
    "ticker": f"{_PLAIN},drawtext={FONT}:text='no news':fontsize=h/12:x=w-6*n:y=h*0.8:fontcolor=white",
}
"""Frames that are whole."""

MOVING: dict[str, str] = {
    "testsrc2": "testsrc2=s={s}:r={r}",
    "mandelbrot, zooming": WHOLE["mandelbrot, zooming"],
    "texture, sideways fast": f"{_TEXTURE},scroll=h=0.03",
    "texture, shaken": WHOLE["texture, shaken"],
    "soft shapes, sideways": f"{_SOFT},scroll=h=0.005",
    "soft shapes, sideways fast": f"{_SOFT},scroll=h=0.03",
    "soft shapes, slanting": f"{_SOFT},scroll=h=0.005:v=0.0061",
    "texture with film grain": f"{_TEXTURE},scroll=h=0.01,noise=alls=20:allf=t",
    "bar": f"{_BAR},scroll=h=0.01",
    "bar, fast": f"{_BAR},scroll=h=0.04",
    "credits": _credits(2),
    "ticker": WHOLE["ticker"],
}
"""What is woven: drawn at twice the rate, and every two pictures make one frame."""

FIELDS: dict[str, str] = {
    "top first": "tinterlace=interleave_top",
    "bottom first": "tinterlace=interleave_bottom",
    "top first, soft": "gblur=sigma=0.01:sigmaV=0.8,tinterlace=interleave_top:flags=vlpf",
}
TELECINE = {"telecine": "telecine=first_field=top:pattern=23"}
"""Of 24 frames a second 30, two of every five woven of neighbours."""


def encode(path: Path, source: str, size: str, rate: str, filters: str, quality: int) -> None:
    """Write a clip of a source that is filtered, and says that it is progressive."""
    line = str(1 / int(size.partition("x")[2]))
    drawn = source.replace("{s}", size).replace("{r}", rate).replace("{line}", line)
    chain = ",".join(part for part in (drawn, filters, "setfield=prog", "format=yuv420p") if part)
    coded = ("-c:v", "libx264", "-preset", "veryfast", "-crf", str(quality), "-threads", "1")
    output = ("-fps_mode", "passthrough", "-frames:v", str(FRAMES), *coded, f"file:{path}")
    command = ["ffmpeg", "-nostdin", "-y", "-v", "error", "-f", "lavfi", "-i", chain, *output]
    subprocess.run(command, check=True)
