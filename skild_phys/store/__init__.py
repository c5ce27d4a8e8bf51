"""The store: samples and their scalars in a Zarr v3 group that `xarray.open_zarr` opens.

Only this package knows Zarr and the schema.
"""

from skild_phys.fields import FIELDS
from skild_phys.store.chunks import zarr_folder
from skild_phys.store.dataset import Source, open_lattices, write_lattices
from skild_phys.store.identity import shared
from skild_phys.store.memory import MemoryLattices, MemoryWriter
from skild_phys.store.reader import Lattices, LatticeStore, open_store
from skild_phys.store.schema import APPEND_TOTAL, Plan, is_store, sides
from skild_phys.store.writer import (
    Region,
    StoreWriter,
    create_store,
    end_append,
    read_timing,
    streams_at,
    write_timing,
)

__all__ = [
    "APPEND_TOTAL",
    "FIELDS",
    "LatticeStore",
    "Lattices",
    "MemoryLattices",
    "MemoryWriter",
    "Plan",
    "Region",
    "Source",
    "StoreWriter",
    "create_store",
    "end_append",
    "is_store",
    "open_lattices",
    "open_store",
    "read_timing",
    "shared",
    "sides",
    "streams_at",
    "write_lattices",
    "write_timing",
    "zarr_folder",
]
