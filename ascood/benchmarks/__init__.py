"""Where images come from. Each of these modules enters its benchmarks in the register of `ascood.data`."""

from . import disk, embedded, scenes  # noqa: F401
