"""The store: lattices and their scalars in a Zarr v3 group that `xarray.open_zarr` opens.

Only this package knows Zarr and the schema.
"""

from skild_phys.store.chunks import zarr_folder
from skild_phys.store.create import create_store, end_append, streams_at
from skild_phys.store.identity import shared
from skild_phys.store.inputs import Source, is_store, open_lattices
from skild_phys.store.lattices import Lattices
from skild_phys.store.memory import MemoryLattices, MemoryWriter
from skild_phys.store.reader import LatticeStore, open_store
from skild_phys.store.region import Region
from skild_phys.store.schema import APPEND_TOTAL, FIELDS, SCALARS, SCHEMA_VERSION, VOLATILE, Plan
from skild_phys.store.timing import read_timing, write_timing
from skild_phys.store.writer import COMMIT_SECONDS, StoreWriter

__all__ = [
    "APPEND_TOTAL",
    "COMMIT_SECONDS",
    "FIELDS",
    "SCALARS",
    "SCHEMA_VERSION",
    "VOLATILE",
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
    "streams_at",
    "write_timing",
    "zarr_folder",
]
