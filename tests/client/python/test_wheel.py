"""The wheel carries all it needs: package and library, without the build tree."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import BIN, ROOT

USE = """
import numpy, quire
layer = quire.Layer(1, 4, 4, quire.RopeStyle.NEOX, quire.rope_frequencies(4))
model = quire.Model(bytes(32), bytes(32), (layer,))
planes = numpy.ones((1, 1, 3, 4), numpy.float16)
packed = quire.pack(model, [1, 2, 3], planes, planes, codec="raw-f16")
keys, values = quire.unpack(packed.data, model, 0)
assert (keys == planes).all() and (values == planes).all()
print(quire.__file__)
"""


def test_wheel_works_alone(tmp_path: Path) -> None:
    library = BIN.parent / "lib" / "libquire.so"
    if not library.is_file():
        pytest.skip(f"no library at {library}")
    wheels = []
    for folder in ("first", "second"):
        script = ROOT / "client" / "python" / "build_wheel.py"
        command = [sys.executable, str(script), "--library", str(library)]
        subprocess.run([*command, "--output", str(tmp_path / folder)], check=True)
        wheels += (tmp_path / folder).iterdir()
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheels[0]) as wheel:
        assert wheel.testzip() is None
        wheel.extractall(unpacked)
    package = ROOT / "client" / "python" / "quire"
    sources = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    packed = {
        str(path.relative_to(unpacked / "quire"))
        for path in (unpacked / "quire").rglob("*")
        if path.is_file()
    }
    assert sources | {"libquire.so", "py.typed"} == packed
    environment = {name: value for name, value in os.environ.items() if name != "QUIRE_LIBRARY"}
    environment |= {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", USE], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(unpacked))
