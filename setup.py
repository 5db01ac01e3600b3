"""Declares the C extension, which setup.cfg cannot; everything else is in setup.cfg."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "fusemount._native",
            sources=sorted(glob("native/*.c")),
            depends=sorted(glob("native/*.h")),
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
            extra_link_args=["-pthread"],
        )
    ]
)
