"""Declares the C extension, which setup.cfg cannot; everything else is in setup.cfg."""

from pathlib import Path

from setuptools import Extension, setup

# A room of native/ is a folder with a room.h; tests and fuzz targets are no rooms.
ROOMS = [path.parent for path in sorted(Path("native").glob("*/room.h"))]

setup(
    ext_modules=[
        Extension(
            "fusemount._native",
            sources=[str(path) for room in ROOMS for path in sorted(room.glob("*.c"))],
            depends=[str(path) for room in ROOMS for path in sorted(room.glob("*.h"))],
            include_dirs=["native"],
            extra_compile_args=[
                "-std=gnu11",
                "-O2",
                "-g",
                "-fvisibility=hidden",
                "-pthread",
                "-Wall",
                "-Wextra",
                "-Wconversion",
                "-Wshadow",
                "-Werror",
            ],
            libraries=["isal", "zstd", "crypto"],
            extra_link_args=["-pthread"],
        )
    ]
)
